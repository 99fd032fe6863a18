//! Computes the SHA-1 of every Lua script, plain and with the key-locking flag, so that no
//! process has to do it at run time and EVALSHA always names the text that is compiled in.

use sha1::{Digest, Sha1};
use std::{env, fmt::Write as _, fs, path::Path};

const KEY_LOCKING: &str = "#!lua flags=allow-key-locking\n";

fn sha1_hex(text: &str) -> String {
    Sha1::digest(text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=lua");
    let mut source = String::new();
    let names = [
        "admit", "campaign", "claim", "confirm", "lease", "probe", "publish", "read", "recall", "restore", "take_due",
        "update",
    ];
    let mut all = String::new();
    for name in names {
        write!(all, "&{}, ", name.to_uppercase())?;
        let text = fs::read_to_string(format!("lua/{name}.lua"))?;
        let locking = format!("{KEY_LOCKING}{text}");
        write!(
            source,
            "/// `lua/{name}.lua`\npub static {}: Script = Script {{ name: {name:?}, text: {text:?}, sha1: {:?}, \
             locking_text: {locking:?}, locking_sha1: {:?} }};\n",
            name.to_uppercase(),
            sha1_hex(&text),
            sha1_hex(&locking),
        )?;
    }
    write!(source, "/// Every script.\npub static ALL: [&Script; {}] = [{all}];\n", names.len())?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("scripts.rs"), source)?;
    Ok(())
}
