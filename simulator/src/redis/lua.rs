//! The embedded Lua 5.1 that runs the scripts, the very text that Redis gets.
//!
//! One VM for each thread, shared by all servers of that thread; compiled scripts are kept by SHA-1. A script
//! starts from fresh locals and cannot set a global, so nothing leaks from one world into another. The data
//! set is handed in for the time of a call.
//!
//! Rules, from src/script_lua.c and src/eval.c of Redis 7.0.15:
//!
//! - Reply to Lua: integer to number, bulk to string, nil to `false`, status to `{ok=}`, error to `{err=}`, array
//!   to table. Numbers passed to a command are written `%.17g`.
//! - Lua to reply: number to integer, cut towards zero; `true` to 1; `false` and `nil` to nil; a table ends at its
//!   first nil, unless it has `err`, `ok` or `double`.
//! - An error of `redis.call` ends the script: `<error> script: <sha1>, on @user_script:<line>.`; a Lua error
//!   likewise, after `ERR `. An error that is returned stays as it is.
//! - Globals: reading one that does not exist and setting any is an error.
//!
//! Not there: `cjson`, `cmsgpack`, `struct`, `bit`, `math.random`, `loadstring`, `coroutine`, RESP3, the time limit.

use super::reply::{Bytes, Reply, number};
use super::script::Run;
use mlua::{Function, IntoLua, Lua, LuaOptions, MultiValue, StdLib, Table, Value};
use sha1::{Digest as _, Sha1};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::rc::Rc;

const CHUNK: &str = "@user_script";

thread_local! {
    static VM: Result<Vm, mlua::Error> = Vm::new();
}

struct Vm {
    lua: Lua,
    environment: Table,
    globals: Table,
    run: Function,
    compiled: RefCell<BTreeMap<String, Function>>,
    /// The script that runs.
    running: Running,
}

type Running = Rc<RefCell<Option<Run>>>;

/// SHA-1 in lower-case hexadecimal digits.
pub(super) fn sha1_hex(text: &[u8]) -> String {
    Sha1::digest(text).iter().fold(String::with_capacity(40), |mut hex, byte| {
        // Writing into memory does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Compiles `body` under the name `sha`, unless this thread has it.
///
/// # Errors
/// The error that Redis answers.
pub(super) fn compile(sha: &str, body: &[u8]) -> Result<(), String> {
    with_vm(|vm| {
        if vm.compiled.borrow().contains_key(sha) {
            return Ok(());
        }
        let chunk = vm.lua.load(body).set_name(CHUNK);
        let function = chunk.set_environment(vm.environment.clone()).into_function().map_err(|error| match error {
            mlua::Error::SyntaxError { message, .. } => {
                format!("ERR Error compiling script (new function): {message}")
            }
            other => broken(&other),
        })?;
        vm.compiled.borrow_mut().insert(sha.to_owned(), function);
        Ok(())
    })
    .and_then(|result| result)
}

/// Runs the script `sha`, which has been compiled.
pub(super) fn run(sha: &str, run: Run, args: &[Bytes]) -> (Run, Reply) {
    // Where the VM is broken the run comes back as it is.
    let slot = Rc::new(RefCell::new(Some(run)));
    let result = with_vm(|vm| {
        vm.running.replace(slot.take());
        let result = vm.run(sha, args).unwrap_or_else(|error| Reply::Error(broken(&error)));
        slot.replace(vm.running.take());
        result
    });
    let run = slot.take().unwrap_or_default();
    (run, result.unwrap_or_else(Reply::Error))
}

fn with_vm<T>(action: impl FnOnce(&Vm) -> T) -> Result<T, String> {
    VM.with(|vm| vm.as_ref().map(action).map_err(broken))
}

fn broken(error: &mlua::Error) -> String {
    format!("ERR the simulator's Lua failed: {error}")
}

/// An error of a command, raised as Redis raises it.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// Bytes on their way into Lua.
struct Text<'a>(&'a [u8]);

impl IntoLua for Text<'_> {
    fn into_lua(self, lua: &Lua) -> mlua::Result<Value> {
        lua.create_string(self.0).map(Value::String)
    }
}

impl Vm {
    fn new() -> mlua::Result<Self> {
        let lua = Lua::new_with(StdLib::TABLE | StdLib::STRING | StdLib::MATH, LuaOptions::default())?;
        let running = Running::default();
        let command = |running: &Running, args: &MultiValue| {
            let args = arguments(args).ok_or("ERR Lua redis lib command arguments must be strings or integers");
            let mut running = running.borrow_mut();
            match (args, running.as_mut()) {
                (Ok(args), Some(run)) => run.call(&args),
                (Err(error), _) => Reply::Error(error.to_owned()),
                (_, None) => Reply::Error("ERR redis.call/pcall can only be called inside a script".to_owned()),
            }
        };
        let of_call = running.clone();
        let call = lua.create_function(move |lua, args: MultiValue| match command(&of_call, &args) {
            Reply::Error(text) => Err(mlua::Error::external(Raised(text))),
            reply => to_lua(lua, &reply),
        })?;
        let of_pcall = running.clone();
        let pcall = lua.create_function(move |lua, args: MultiValue| to_lua(lua, &command(&of_pcall, &args)))?;
        let digest = lua.create_function(|_, args: MultiValue| match arguments(&args).as_deref() {
            Some([text]) => Ok(sha1_hex(text)),
            _ => Err(mlua::Error::external(Raised("ERR wrong number of arguments".to_owned()))),
        })?;
        // The error that a handler of the script sees.
        let plain = lua.create_function(|lua, error: Value| match raised(&error) {
            Some(text) => error_table(lua, &text),
            None => Ok(error),
        })?;
        let failure = lua.create_function(|lua, error: Value| Ok(failure(lua, &error)))?;
        let chunk = lua.load(include_str!("environment.lua")).set_name("@environment");
        let (environment, globals, run) = chunk.call((call, pcall, digest, plain, failure))?;
        Ok(Self { lua, environment, globals, run, compiled: RefCell::default(), running })
    }

    fn run(&self, sha: &str, args: &[Bytes]) -> mlua::Result<Reply> {
        let Some(body) = self.compiled.borrow().get(sha).cloned() else {
            return Ok(Reply::Error(super::NO_SCRIPT.to_owned()));
        };
        let list = |items: &[Bytes]| self.lua.create_sequence_from(items.iter().map(|item| Text(item)));
        let keys = match self.running.borrow().as_ref() {
            Some(run) => list(&run.keys)?,
            None => list(&[])?,
        };
        self.globals.raw_set("KEYS", keys)?;
        self.globals.raw_set("ARGV", list(args)?)?;
        Ok(match self.run.call::<(bool, Value)>(body)? {
            (true, value) => from_lua(&value)?,
            (false, message) => {
                let (text, line) = message
                    .to_string()?
                    .split_once('\n')
                    .map_or_else(|| (String::new(), String::new()), |(line, text)| (text.to_owned(), line.to_owned()));
                Reply::Error(match line.as_str() {
                    "" => text,
                    line => format!("{text} script: {sha}, on {CHUNK}:{line}."),
                })
            }
        })
    }
}

/// An error that the script did not catch: the line that it came from, if any, then its text.
fn failure(lua: &Lua, error: &Value) -> String {
    let text = match error {
        Value::Table(table) => match table.raw_get::<Value>("err") {
            Ok(Value::String(text)) => text.to_string_lossy(),
            _ => "ERR unknown error".to_owned(),
        },
        Value::Error(_) => raised(error).unwrap_or_else(|| format!("ERR {}", error.to_string().unwrap_or_default())),
        other => format!("ERR {}", other.to_string().unwrap_or_default()),
    };
    let mut line = None;
    for level in 0.. {
        let here = lua.inspect_stack(level, |frame| {
            (frame.source().source.as_deref() == Some(CHUNK)).then(|| frame.current_line()).flatten()
        });
        match here {
            Some(None) => {}
            Some(found) => {
                line = found;
                break;
            }
            None => break,
        }
    }
    format!("{}\n{text}", line.map(|line| line.to_string()).unwrap_or_default())
}

/// The text of an error that a command raised.
fn raised(error: &Value) -> Option<String> {
    match error {
        Value::Error(error) => error.downcast_ref::<Raised>().map(|raised| raised.0.clone()),
        _ => None,
    }
}

/// The arguments of a command; `None` if one is neither string nor number.
fn arguments(values: &MultiValue) -> Option<Vec<Bytes>> {
    let argument = |value: &Value| match value {
        Value::String(text) => Some(Bytes::from(&*text.as_bytes())),
        Value::Integer(value) => Some(number(*value as f64).as_bytes().into()),
        Value::Number(value) => Some(number(*value).as_bytes().into()),
        _ => None,
    };
    values.iter().map(argument).collect()
}

fn error_table(lua: &Lua, text: &str) -> mlua::Result<Value> {
    lua.create_table_from([("err", text)]).map(Value::Table)
}

fn to_lua(lua: &Lua, reply: &Reply) -> mlua::Result<Value> {
    Ok(match reply {
        Reply::Nil => Value::Boolean(false),
        Reply::Int(value) => Value::Number(*value as f64),
        Reply::Bulk(bytes) => Value::String(lua.create_string(bytes)?),
        Reply::Status(text) => Value::Table(lua.create_table_from([("ok", text.as_ref())])?),
        Reply::Error(text) => error_table(lua, text)?,
        Reply::Array(items) => {
            let items = items.iter().map(|item| to_lua(lua, item)).collect::<mlua::Result<Vec<_>>>()?;
            Value::Table(lua.create_sequence_from(items)?)
        }
    })
}

fn from_lua(value: &Value) -> mlua::Result<Reply> {
    Ok(match value {
        Value::String(text) => Reply::bulk(text.as_bytes()),
        Value::Boolean(true) => Reply::Int(1),
        Value::Integer(value) => Reply::Int(*value),
        Value::Number(value) => Reply::Int(*value as i64),
        Value::Table(table) => {
            let one_line = |text: mlua::LuaString| text.to_string_lossy().replace(['\r', '\n'], " ");
            if let Value::String(text) = table.raw_get("err")? {
                let text = text.to_string_lossy();
                return Ok(Reply::Error(text.trim_end_matches(['\r', '\n']).replace(['\r', '\n'], " ")));
            }
            if let Value::String(text) = table.raw_get("ok")? {
                return Ok(Reply::Status(one_line(text).into()));
            }
            match table.raw_get("double")? {
                Value::Integer(value) => return Ok(Reply::score(value as f64)),
                Value::Number(value) => return Ok(Reply::score(value)),
                _ => {}
            }
            let mut items = Vec::new();
            loop {
                match table.raw_get(items.len() + 1)? {
                    Value::Nil => break,
                    item => items.push(from_lua(&item)?),
                }
            }
            Reply::Array(items)
        }
        _ => Reply::Nil,
    })
}
