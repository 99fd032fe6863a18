//! `export`: who has a coupon, or who was refused, page by page.

use super::campaign::error::CampaignError;
use super::exit::Exit;
use super::output::progress;
use crate::cli::verbs::{ExportArgs, Format};
use crate::store::ports::{Session, Store, StoreError};
use crate::store::rows::{CouponRow, RefusalRow};
use crate::timestamp;
use serde::Serialize;
use std::io::{BufWriter, Write};
use std::path::Path;

const ROWS: u32 = 2_000;

#[derive(Serialize)]
struct Winner {
    slot: u32,
    user: String,
    code: String,
    admitted_at: String,
    issued_at: String,
}

#[derive(Serialize)]
struct Refused {
    user: String,
    proposed_slot: u32,
    reason: String,
    admitted_at: String,
    refused_at: String,
}

/// What a spreadsheet takes for the beginning of a formula. Input in Chinese, Japanese and Korean has the signs in full
/// width, and spreadsheets take them too.
const FORMULA: [char; 10] = ['=', '+', '-', '@', '\t', '\r', '＝', '＋', '－', '＠'];
/// Of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

const WINNER: [&str; 5] = ["slot", "user", "code", "admitted_at", "issued_at"];
const REFUSED: [&str; 5] = ["user", "proposed_slot", "reason", "admitted_at", "refused_at"];

impl From<CouponRow> for Winner {
    fn from(row: CouponRow) -> Self {
        Self {
            slot: row.slot,
            user: row.user_id,
            code: row.code,
            admitted_at: timestamp::format(row.admitted_at),
            issued_at: timestamp::format(row.issued_at),
        }
    }
}

impl From<RefusalRow> for Refused {
    fn from(row: RefusalRow) -> Self {
        Self {
            user: row.user_id,
            proposed_slot: row.proposed_slot,
            reason: row.reason,
            admitted_at: timestamp::format(row.admitted_at),
            refused_at: timestamp::format(row.refused_at),
        }
    }
}

/// Writes rows in one of the formats.
enum Sheet<W: Write> {
    Csv { writer: Box<csv::Writer<W>>, raw: bool, guarded: u64 },
    Json { writer: W, is_empty: bool },
}

impl<W: Write> Sheet<W> {
    fn new(mut writer: W, args: &ExportArgs) -> std::io::Result<Self> {
        match args.format {
            Format::Csv => {
                if args.bom {
                    writer.write_all(BYTE_ORDER_MARK)?;
                }
                let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(writer);
                writer.write_record(if args.refusals { REFUSED } else { WINNER })?;
                Ok(Self::Csv { writer: Box::new(writer), raw: args.raw, guarded: 0 })
            }
            Format::Json => Ok(Self::Json { writer, is_empty: true }),
        }
    }

    /// A user id as the format wants it.
    fn user(&mut self, user: String) -> String {
        match self {
            Self::Csv { raw: false, guarded, .. } if user.starts_with(FORMULA) => {
                *guarded += 1;
                format!("'{user}")
            }
            _ => user,
        }
    }

    fn row(&mut self, row: &impl Serialize) -> std::io::Result<()> {
        match self {
            Self::Csv { writer, .. } => Ok(writer.serialize(row)?),
            Self::Json { writer, is_empty } => {
                writer.write_all(if *is_empty { b"[\n " } else { b",\n " })?;
                *is_empty = false;
                Ok(serde_json::to_writer(writer, row)?)
            }
        }
    }

    /// Ends the sheet. Returns how many user ids were guarded.
    fn end(self) -> std::io::Result<u64> {
        match self {
            Self::Csv { mut writer, guarded, .. } => writer.flush().map(|()| guarded),
            Self::Json { mut writer, is_empty } => {
                writer.write_all(if is_empty { b"[]\n" } else { b"\n]\n" })?;
                writer.flush().map(|()| 0)
            }
        }
    }
}

/// Exports a campaign's rows.
///
/// # Errors
/// [`Exit`]; the file exists only if it is complete.
pub async fn export(store: &impl Store, shown: &str, args: &ExportArgs) -> Result<(), Exit> {
    if args.bom && args.format == Format::Json {
        return Err(Exit::usage("--bom is for CSV; JSON has no byte order mark (RFC 8259)"));
    }
    let failed = |error: CampaignError| Exit::at(shown, error);
    let mut session = store.connect().await.map_err(|error| failed(error.into()))?;
    if session.campaign(&args.id).await.map_err(|error| failed(error.into()))?.is_none() {
        return Err(failed(CampaignError::Unknown(args.id.clone())));
    }
    let Some(path) = &args.out else {
        let out = BufWriter::new(std::io::stdout().lock());
        return match write(&mut session, shown, args, out).await {
            // `issuer export .. | head`: the reader has had enough.
            Err(Unwritten::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => {
                report_guarded(other?);
                Ok(())
            }
        };
    };
    let failed = |error: std::io::Error| Exit::failed(format!("cannot write {}: {error}", path.display()));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Codes are worth money: the file is its owner's alone, from the beginning.
    let file = tempfile::Builder::new().prefix(".issuer-export-").tempfile_in(folder).map_err(failed)?;
    let guarded = match write(&mut session, shown, args, BufWriter::new(file.as_file())).await {
        Err(Unwritten::Output(error)) => return Err(failed(error)),
        other => other?,
    };
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    report_guarded(guarded);
    Ok(())
}

fn report_guarded(guarded: u64) {
    if guarded > 0 {
        eprintln!(
            "issuer: {guarded} user ids begin like a formula and got an apostrophe before them; --raw leaves them \
             unchanged"
        );
    }
}

enum Unwritten {
    Output(std::io::Error),
    Exit(Exit),
}

impl From<std::io::Error> for Unwritten {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<Unwritten> for Exit {
    fn from(unwritten: Unwritten) -> Self {
        match unwritten {
            Unwritten::Output(error) => Self::failed(format!("cannot write the output: {error}")),
            Unwritten::Exit(exit) => exit,
        }
    }
}

async fn write(session: &mut impl Session, shown: &str, args: &ExportArgs, out: impl Write) -> Result<u64, Unwritten> {
    let faulty = |error: StoreError| Unwritten::Exit(Exit::at(shown, error.into()));
    let tally = session.tally(&args.id).await.map_err(faulty)?;
    let bar = progress(true, "rows", if args.refusals { tally.refused } else { tally.issued });
    let mut sheet = Sheet::new(out, args)?;
    if args.refusals {
        let mut after = String::new();
        loop {
            let page = session.refusals_after(&args.id, &after, ROWS).await.map_err(faulty)?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.user_id);
            bar.inc(page.len() as u64);
            for mut row in page {
                row.user_id = sheet.user(row.user_id);
                sheet.row(&Refused::from(row))?;
            }
        }
    } else {
        let mut after = None;
        loop {
            let page = session.coupons_after(&args.id, after, ROWS).await.map_err(faulty)?;
            let Some(last) = page.last() else { break };
            after = Some(last.slot);
            bar.inc(page.len() as u64);
            for mut row in page {
                row.user_id = sheet.user(row.user_id);
                sheet.row(&Winner::from(row))?;
            }
        }
    }
    bar.finish_and_clear();
    Ok(sheet.end()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command::{Cli, Command};
    use clap::Parser;

    fn csv(more: &[&str], users: &[&str]) -> Vec<u8> {
        let line = ["issuer", "export", "c", "--database-url", "mysql://u@h/d"];
        let Command::Export(args) = Cli::parse_from(line.iter().chain(more)).command else { panic!("not export") };
        let mut out = Vec::new();
        let mut sheet = Sheet::new(&mut out, &args).unwrap();
        for user in users {
            let user = sheet.user((*user).to_owned());
            let time = String::new();
            let row = Winner { slot: 1, user, code: "X".to_owned(), admitted_at: time.clone(), issued_at: time };
            sheet.row(&row).unwrap();
        }
        sheet.end().unwrap();
        out
    }

    #[test]
    fn no_user_id_is_a_formula() {
        for formula in ["=1+1", "+1", "-1", "@a", "\ta", "＝1", "＋1", "－1", "＠a"] {
            let text = String::from_utf8(csv(&[], &[formula])).unwrap();
            assert!(text.contains(&format!("1,'{formula},X")), "{text}");
            let text = String::from_utf8(csv(&["--raw"], &[formula])).unwrap();
            assert!(text.contains(&format!("1,{formula},X")), "{text}");
        }
        let text = String::from_utf8(csv(&[], &["a=1", "１", "鬼"])).unwrap();
        assert!(!text.contains('\''), "{text}");
    }

    #[test]
    fn a_byte_order_mark_only_where_it_is_asked_for() {
        assert!(csv(&["--bom"], &["é"]).starts_with(b"\xEF\xBB\xBFslot,user"));
        assert!(csv(&[], &["é"]).starts_with(b"slot,user"));
    }
}
