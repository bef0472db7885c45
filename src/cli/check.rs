//! `keygate check`: reads config and key file as `serve` does, and prints all their faults.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use crate::cli::CheckArgs;
use crate::cli::command_error::CommandError;
use crate::cli::output::{escaped, print};
use crate::policy::model_access::ModelAccess;
use crate::store::config::parse;
use crate::store::config::{Config, KeysConfig, KeysSource};
use crate::store::fault::Fault;
use crate::store::key_file::{self, LoadedKeys};
use crate::store::key_store;
use crate::table::{NO_YIELD, Table};

pub(super) fn run(args: &CheckArgs) -> Result<ExitCode, CommandError> {
    let file = args
        .config
        .find()
        .map_err(|fault| CommandError::Faulty(vec![fault]))?;
    let reading = parse::read(file.as_deref(), &args.settings.overrides());
    let (config, mut faults) = match reading.config {
        Ok(config) => (Some(config), Vec::new()),
        Err(faults) => (None, faults),
    };
    let mut warnings = config.as_ref().map(Config::warnings).unwrap_or_default();
    let mut read = Vec::new();
    if let Some(config) = &config {
        let file = config.file.as_deref().unwrap_or(Path::new("command line"));
        let upstreams = match config.upstreams.len() {
            1 => "1 upstream".to_owned(),
            count => format!("{count} upstreams"),
        };
        read.push(format!("{}: {upstreams}", file.display()));
    }
    // Without a configured key file, `serve` creates one.
    let is_file = |keys: &KeysConfig| match keys.source {
        KeysSource::File => keys.named || keys.file.exists(),
        // The gateway writes it itself.
        KeysSource::Database => false,
    };
    let keys = reading.keys.filter(is_file);
    if let Some(keys) = keys {
        let file = &keys.file;
        match key_file::read(file, &Table::default(), NO_YIELD) {
            Ok(loaded) => {
                warnings.extend(key_file::readable_by_others(file));
                warnings.extend(
                    config
                        .as_ref()
                        .and_then(|config| excluded(config, file, &loaded)),
                );
                faults.extend(
                    config
                        .as_ref()
                        .and_then(|config| budgets_without_database(config, file, &loaded)),
                );
                let keys = key_store::format_key_count(loaded.entries.len());
                read.push(format!("{}: {keys}", file.display()));
            }
            Err(error) => faults.extend_from_slice(error.faults()),
        }
    }
    let mut report = String::new();
    for fault in &faults {
        report.push_str(&format!("{}\n", escaped(&fault.to_string())));
    }
    for warning in &warnings {
        report.push_str(&format!("warning: {}\n", escaped(&warning.to_string())));
    }
    if faults.is_empty() {
        report.push_str(&format!("ok: {}\n", read.join(", ")));
    }
    print(report)?;
    Ok(match faults.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The fault of a key with budgets where there is no database: nobody knows what was spent, so the gateway refuses it.
fn budgets_without_database(config: &Config, file: &Path, loaded: &LoadedKeys) -> Option<Fault> {
    if config.database.is_some() {
        return None;
    }
    let mut keys = loaded.entries.iter().map(|entry| entry.key());
    let key = keys.find(|key| !key.budgets().is_empty())?;
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let id = format!("\"{}\"", key.id());
    // 0 is the whole file, where it was written anew meanwhile.
    let line = text.lines().position(|line| line.contains(&id));
    Some(Fault {
        file: file.to_owned(),
        line: line.map_or(0, |at| at + 1),
        field: "budgets".to_owned(),
        message: "need the database that [database] url = \"\" switches off; set a url, or remove the budgets".to_owned(),
    })
}

/// A warning about models that keys exclude but no upstream serves. A misspelt name excludes nothing, so the key may use
/// more than intended. None if the config does not list the models of an upstream.
fn excluded(config: &Config, file: &Path, loaded: &LoadedKeys) -> Option<Fault> {
    let served = config.listed_models()?;
    let mut unserved: BTreeMap<&str, &str> = BTreeMap::new();
    for entry in &loaded.entries {
        if let ModelAccess::Exclusive(models) = entry.key().model_access() {
            let names = models
                .names()
                .iter()
                .filter(|name| !served.contains(&***name));
            for name in names {
                unserved.entry(name).or_insert(entry.key().id());
            }
        }
    }
    let named: Vec<String> = unserved
        .iter()
        .map(|(model, id)| format!("{model:?} (key {id})"))
        .collect();
    (!named.is_empty()).then(|| Fault {
        file: file.to_owned(),
        line: 0,
        field: "model_access.models".to_owned(),
        message: format!(
            "no upstream serves these, so excluding them excludes nothing: {}; check their spelling",
            named.join(", ")
        ),
    })
}
