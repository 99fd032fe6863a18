//! The `issuer` binary. All that it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    dropgate_issuer::app::main()
}
