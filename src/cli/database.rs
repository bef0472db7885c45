//! `keygate database …`

use std::process::ExitCode;

use crate::cli::command_error::CommandError;
use crate::cli::output::print;
use crate::cli::{ConfigArgs, DatabaseArgs, DatabaseCommand};
use crate::store::config::Config;
use crate::store::config::parse::{self, Overrides};
use crate::store::database::{DatabaseUrl, PostgresUrl, SharedDatabase};

pub(super) fn run(command: &DatabaseCommand) -> Result<ExitCode, CommandError> {
    match command {
        DatabaseCommand::Migrate(args) => migrate(args),
        DatabaseCommand::Status(args) => status(args),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn migrate(args: &DatabaseArgs) -> Result<(), CommandError> {
    let database = shared_database(&args.config)?;
    let before = database.schema().map_err(refused)?;
    database.migrate().map_err(refused)?;
    let place = database.place();
    print(match before.missing.len() {
        0 => format!("{place}: has the newest schema already, {}\n", before.known),
        _ => format!("{place}: schema {} now\n", before.known),
    })
}

fn status(args: &DatabaseArgs) -> Result<(), CommandError> {
    let database = shared_database(&args.config)?;
    let schema = database.schema().map_err(refused)?;
    let applied = match schema.applied {
        Some(applied) => format!("schema {applied}"),
        None => "no schema yet".to_owned(),
    };
    let missing: Vec<String> = schema.missing.iter().map(i64::to_string).collect();
    let rest = match missing.as_slice() {
        [] => "nothing to migrate".to_owned(),
        _ => format!(
            "to migrate: {} (keygate database migrate, or the next start of a gateway)",
            missing.join(", ")
        ),
    };
    print(format!(
        "{}: PostgreSQL {}, {applied}, this program knows {}; {rest}\n",
        database.place(),
        schema.server,
        schema.known
    ))
}

fn refused(error: impl std::fmt::Display) -> CommandError {
    CommandError::Refused(error.to_string())
}

fn shared_database(config: &ConfigArgs) -> Result<SharedDatabase, CommandError> {
    let (config, url) = shared(config)?;
    SharedDatabase::new(&url, &config.gateway_name).map_err(refused)
}

/// What only looks must not bring the schema forward: there is no way back, and older gateways may run.
///
/// # Errors
/// The schema is not the newest, or the database fails.
pub(super) fn check_is_migrated(config: &Config, url: &PostgresUrl) -> Result<(), CommandError> {
    let database = SharedDatabase::new(url, &config.gateway_name).map_err(refused)?;
    let schema = database.schema().map_err(refused)?;
    if schema.missing.is_empty() {
        return Ok(());
    }
    let place = database.place();
    Err(CommandError::Refused(format!(
        "{place}: does not have the newest schema yet, and nothing was changed; bring it forward (keygate database migrate), \
         then run this again"
    )))
}

/// The config, and the database in it that several gateways share.
pub(super) fn shared(config: &ConfigArgs) -> Result<(Config, PostgresUrl), CommandError> {
    let file = config
        .find()
        .map_err(|fault| CommandError::Faulty(vec![fault]))?;
    let config = parse::read(file.as_deref(), &Overrides::default())
        .config
        .map_err(CommandError::Faulty)?;
    match &config.database {
        Some(DatabaseUrl::Postgres(url)) => {
            let url = url.clone();
            Ok((config, url))
        }
        Some(DatabaseUrl::Sqlite(_)) | None => Err(CommandError::Usage(
            "the config names no database that gateways share; set [database] url = \"postgres://…\", or name another config \
             with --config"
                .to_owned(),
        )),
    }
}
