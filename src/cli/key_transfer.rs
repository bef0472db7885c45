//! `keygate keys import` and `keygate keys export`: between a key file and the database that gateways share.

use std::sync::Arc;

use crate::cli::command_error::CommandError;
use crate::cli::database::{check_is_migrated, shared};
use crate::cli::output::{escaped, print, print_line};
use crate::cli::usage_database;
use crate::cli::{ConfigArgs, ExportArgs, ImportArgs};
use crate::policy::audit::{ChangeOrigin, ChangeVia};
use crate::store::config::Config;
use crate::store::database::Database;
use crate::store::key_source::transfer::{self, ImportSettings, Imported};
use crate::store::key_store;
use crate::table::Entry;

pub(super) fn import(args: &ImportArgs) -> Result<(), CommandError> {
    let (config, database) = open(&args.config, args.dry_run)?;
    let limit = Some(config.keys.max_drop_percent).filter(|_| !args.force);
    let user = rustix::process::getuid().as_raw();
    let imported = transfer::import(
        &database,
        ImportSettings {
            file: &args.file,
            max_drop_percent: limit,
            dry_run: args.dry_run,
            origin: ChangeOrigin {
                actor: format!("uid {user}"),
                via: ChangeVia::File,
                ..ChangeOrigin::key_file()
            },
        },
    );
    usage_database::stop_quietly(&database);
    print(summary(&imported.map_err(refused)?, args.dry_run))
}

pub(super) fn export(args: &ExportArgs) -> Result<(), CommandError> {
    let (_, database) = open(&args.config, true)?;
    let exported = transfer::export(&database);
    usage_database::stop_quietly(&database);
    let text = exported.map_err(refused)?;
    match text.strip_suffix(b"\n") {
        Some(lines) => print_line(lines),
        None => Ok(()),
    }
}

fn refused(error: impl std::fmt::Display) -> CommandError {
    CommandError::Refused(error.to_string())
}

fn open(config: &ConfigArgs, only_looks: bool) -> Result<(Config, Arc<Database>), CommandError> {
    let (config, url) = shared(config)?;
    if only_looks {
        check_is_migrated(&config, &url)?;
    }
    let database = usage_database::open_for_command(&config).map_err(refused)?;
    Ok((config, Arc::new(database)))
}

fn summary(imported: &Imported, dry_run: bool) -> String {
    let Imported {
        difference,
        revived,
    } = imported;
    let added = difference.added.len();
    let done = match (dry_run, added) {
        (true, _) => "would be",
        (false, 1) => "was",
        (false, _) => "were",
    };
    let mut text = format!(
        "{} {done} added, {} removed, {} changed\n",
        key_store::format_key_count(added),
        difference.removed.len(),
        difference.changed.len()
    );
    if dry_run {
        for (sign, entries) in [
            ("+", &difference.added),
            ("-", &difference.removed),
            ("~", &difference.changed),
        ] {
            for entry in entries {
                text.push_str(&line(sign, entry));
            }
        }
        for id in revived {
            let id = escaped(id);
            text.push_str(&format!(
                "! {id} was deleted in the database; --force makes it work again\n"
            ));
        }
    }
    text
}

fn line(sign: &str, entry: &Entry) -> String {
    let key = entry.key();
    format!("{sign} {} {}\n", escaped(key.id()), escaped(key.name()))
}
