//! Reads the config's parts about usage: `[database]`, `[usage]`, `[audit]`, `[[prices]]`, and what an upstream is asked for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use zeroize::Zeroizing;

use crate::policy::key_limits::MAX_LIMIT;
use crate::policy::price::{ModelPrice, Price};
use crate::store::config::sections::ConfigReader;
use crate::store::config::tree::{Location, Section};
use crate::store::config::{Credential, files, value};
use crate::store::database::{
    DAY, DatabaseUrl, HOUR, PostgresTls, PostgresUrl, SpoolConfig, audit_key_beside,
};

const DATABASE_URL_VARIABLE: &str = "$KEYGATE_DATABASE_URL";
const DEFAULT_DATABASE: &str = "sqlite:keygate.db";
const DEFAULT_AUDIT_KEY: &str = "audit.key";
const DEFAULT_SPOOL: &str = "usage-spool";
/// In bytes.
const DEFAULT_SPOOL_MAX: usize = 256 << 20;
const MIN_SPOOL_MAX: usize = 1 << 20;
/// All files of the spool are open at once where a question reads them.
const MAX_SPOOL_MAX: usize = 4 << 30;
const DEFAULT_CURRENCY: &str = "EUR";
/// The longest name of a currency, in characters.
const MAX_CURRENCY: usize = 16;
/// The longest name of a gateway, in characters.
const MAX_GATEWAY_NAME: usize = 64;
/// The longest time that rows are kept.
const MAX_KEPT: i64 = 3_660 * DAY;

/// `[usage]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageConfig {
    /// How long single records are kept, in seconds; 0: none are.
    pub records: i64,
    /// How long sums are kept, in seconds.
    pub sums: i64,
    /// The currency of the prices. It is shown and never converted.
    pub currency: String,
    /// Whose days, weeks and months budgets have.
    pub time_zone: TimeZone,
    /// Where usage waits while the database is away. None: in memory, since there is no server that could be away.
    pub spool: Option<SpoolConfig>,
}

/// `[audit]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// How long audit rows are kept, in seconds.
    pub keep: i64,
    /// The file of the key that the rows are chained with. It is made where it is missing.
    pub key_file: PathBuf,
}

/// How the usage of an upstream's streams is learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsageMode {
    /// The upstream is asked to say it at the end of a stream, where the client does not ask itself.
    #[default]
    Ask,
    /// What it says by itself is read, and no byte is changed.
    Read,
    /// It is asked to say it in every event, so that a stream that is cut has exact counts.
    Running,
}

/// The server that an upstream runs, where it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// llama.cpp: running counts are asked for with `timings_per_token`.
    LlamaCpp,
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
}

impl ConfigReader<'_> {
    /// Where the database is. Outer None: the section has a fault. Inner None: there is none.
    pub(crate) fn database(&self, mut section: Section<'_>) -> Option<Option<DatabaseUrl>> {
        let named = section.has("url");
        let written = section.text("url", |text| self.database_url(text));
        let variable = (self.environment)(&DATABASE_URL_VARIABLE[1..]);
        let mut url = match variable {
            Some(text) => {
                let location = Location::flag(DATABASE_URL_VARIABLE);
                let text = text.into_string().unwrap_or_default();
                self.faults.record(&location, self.database_url(&text))
            }
            None if named => written,
            None => self.database_url(DEFAULT_DATABASE).ok(),
        };
        let password_file = section.text("password_file", |text| value::path(text, self.folder));
        if let (Some(file), Some(url)) = (password_file, &mut url)
            && let Err(fault) = take_password(url.as_mut(), &file)
        {
            section.fault("password_file", fault);
        }
        section.reject_unknown_fields();
        url
    }

    /// Messages here never contain the value: it may hold a password.
    fn database_url(&self, text: &str) -> Result<Option<DatabaseUrl>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        if let Some(file) = text.strip_prefix("sqlite:") {
            let file = value::path(file, self.folder)?;
            return Ok(Some(DatabaseUrl::Sqlite(file)));
        }
        let schemes = ["postgres://", "postgresql://"];
        if let Some(place) = schemes.iter().find_map(|scheme| text.strip_prefix(scheme)) {
            let url = PostgresUrl::parse(place, self.folder)?;
            if let PostgresTls::Required { roots: Some(file) } = &url.tls {
                files::certificate_authorities(file)?;
            }
            return Ok(Some(DatabaseUrl::Postgres(url)));
        }
        Err(
            "names no kind of database that is known; write \"sqlite:FILE\", \"postgres://USER@HOST/NAME\", or \"\" for no \
             database"
                .to_owned(),
        )
    }

    /// `database`: where it is; the key is beside a file of SQLite by default.
    pub(crate) fn audit(
        &self,
        mut section: Section<'_>,
        database: Option<&DatabaseUrl>,
    ) -> AuditConfig {
        let keep = section.text("keep", |text| match kept_for(text)? {
            kept if kept < DAY => Err("is too short; write \"1d\" or more".to_owned()),
            kept => Ok(kept),
        });
        let key_file = section.text("key_file", |text| value::path(text, self.folder));
        section.reject_unknown_fields();
        AuditConfig {
            keep: keep.unwrap_or(400 * DAY),
            key_file: key_file.unwrap_or_else(|| match database {
                Some(DatabaseUrl::Sqlite(file)) => audit_key_beside(file),
                Some(DatabaseUrl::Postgres(_)) | None => self.folder.join(DEFAULT_AUDIT_KEY),
            }),
        }
    }

    /// `key_file`: the spool is beside it by default, since the gateway can write there.
    pub(crate) fn usage(
        &self,
        mut section: Section<'_>,
        database: Option<&DatabaseUrl>,
        key_file: &Path,
    ) -> UsageConfig {
        let records = section.text("records", kept_for);
        let sums = section.text("sums", |text| match kept_for(text)? {
            kept if kept < DAY => Err(
                "is too short; write \"1d\" or more, or [database] url = \"\" to keep nothing"
                    .to_owned(),
            ),
            kept => Ok(kept),
        });
        let currency = section.text("currency", |text| {
            if text.chars().count() > MAX_CURRENCY {
                return Err(format!(
                    "is longer than {MAX_CURRENCY} characters; write a short name, like \"EUR\""
                ));
            }
            value::name(text)
        });
        let time_zone = section.text("time_zone", |text| {
            TimeZone::get(text).map_err(|_| {
                format!(
                    "{} is no time zone; write its IANA name, like \"Europe/Berlin\", or \"UTC\"",
                    value::quoted(text)
                )
            })
        });
        let spool = self.spool(&mut section, database, key_file);
        section.reject_unknown_fields();
        UsageConfig {
            records: records.unwrap_or(30 * DAY),
            sums: sums.unwrap_or(400 * DAY),
            currency: currency.unwrap_or_else(|| DEFAULT_CURRENCY.to_owned()),
            time_zone: time_zone.unwrap_or(TimeZone::UTC),
            spool,
        }
    }

    fn spool(
        &self,
        section: &mut Section<'_>,
        database: Option<&DatabaseUrl>,
        key_file: &Path,
    ) -> Option<SpoolConfig> {
        let is_shared = matches!(database, Some(DatabaseUrl::Postgres(_)));
        let set = ["spool", "spool_max"]
            .into_iter()
            .find(|name| section.has(name));
        if let Some(name) = set.filter(|_| !is_shared && database.is_some()) {
            section.fault(
                name,
                "is for PostgreSQL, whose server can be away, and the database is SQLite; remove it",
            );
        }
        let folder = section.text("spool", |text| value::path(text, self.folder));
        let max_bytes = section.text("spool_max", |text| match value::size(text)? {
            size @ MIN_SPOOL_MAX..=MAX_SPOOL_MAX => Ok(size),
            _ => Err("is out of bounds; write \"1MiB\" to \"4GiB\"".to_owned()),
        });
        is_shared.then(|| SpoolConfig {
            folder: folder.unwrap_or_else(|| key_file.with_file_name(DEFAULT_SPOOL)),
            max_bytes: max_bytes.unwrap_or(DEFAULT_SPOOL_MAX) as u64,
        })
    }

    /// The prices, in the file's order. Faulty ones are left out.
    pub(crate) fn prices(&self, root: &mut Section<'_>) -> Vec<ModelPrice> {
        let mut models = HashMap::new();
        let sections = root.sections("prices").into_iter().flatten();
        sections
            .filter_map(|section| self.price(section, &mut models))
            .collect()
    }

    /// `models`: the models of earlier prices, each with its line.
    fn price(
        &self,
        mut section: Section<'_>,
        models: &mut HashMap<String, usize>,
    ) -> Option<ModelPrice> {
        const DEFAULT_OUTPUT: &str = "default_output_tokens";
        const PRICES: [&str; 5] = ["input", "input_cached", "output", "audio_minute", "image"];
        if !section.is_present() {
            return None;
        }
        if !section.has("model") {
            section.fault(
                "model",
                "is missing; add model = \"NAME\" to this [[prices]]",
            );
        }
        if !PRICES
            .iter()
            .chain([&DEFAULT_OUTPUT])
            .any(|name| section.has(name))
        {
            section.fault(
                "input",
                format!(
                    "is missing; set a price: one or more of {}",
                    PRICES.join(", ")
                ),
            );
        }
        let model = section.text("model", value::name);
        if let Some(model) = &model {
            let location = section.location("model");
            if let Some(line) = models.insert(model.clone(), location.line()) {
                self.faults.add(
                    &location,
                    format!(
                        "{} has a price in line {line} already; name each model once",
                        value::quoted(model)
                    ),
                );
            }
        }
        let mut price = |name| {
            section.number_text(name, |text| {
                Price::parse(text).map_err(|error| error.to_string())
            })
        };
        let [input, input_cached, output, audio_minute, image] = PRICES.map(&mut price);
        let most = usize::try_from(MAX_LIMIT).unwrap_or(usize::MAX);
        let default_output = section
            .number(DEFAULT_OUTPUT, 0, most)
            .and_then(|tokens| u64::try_from(tokens).ok());
        section.reject_unknown_fields();
        Some(ModelPrice {
            model: model?,
            input: input.unwrap_or_default(),
            input_cached,
            output: output.unwrap_or_default(),
            audio_minute: audio_minute.unwrap_or_default(),
            image: image.unwrap_or_default(),
            default_output_tokens: default_output,
        })
    }
}

/// The name of this gateway, in `[database]`; the host's where none is set.
pub(crate) fn gateway_name(section: &mut Section<'_>) -> String {
    let name = section.text("gateway_name", |text| {
        let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if (1..=MAX_GATEWAY_NAME).contains(&text.len()) && is_visible {
            return Ok(text.to_owned());
        }
        Err(format!(
            "must be 1 to {MAX_GATEWAY_NAME} visible ASCII characters, without spaces; write a short name, like \"eu-1\", \
             or remove the line for the host's name"
        ))
    });
    let host = rustix::system::uname();
    name.unwrap_or_else(|| host.nodename().to_string_lossy().into_owned())
}

/// Reads the file of the password for a database.
fn take_password(url: Option<&mut DatabaseUrl>, file: &Path) -> Result<(), String> {
    match url {
        Some(DatabaseUrl::Postgres(PostgresUrl {
            password: Some(_), ..
        })) => Err("is set, and the url has a password too; take it out of the url".to_owned()),
        Some(DatabaseUrl::Postgres(url)) => {
            let password = Credential::parse(&files::read(file)?)?;
            url.password = Some(Zeroizing::new(password.reveal().to_owned()));
            Ok(())
        }
        Some(DatabaseUrl::Sqlite(_)) | None => {
            Err("is for databases with a password, and SQLite has none; remove it".to_owned())
        }
    }
}

/// What an upstream is asked for.
pub(crate) fn usage_of_upstream(section: &mut Section<'_>) -> (UsageMode, Option<Engine>) {
    let mode = section.text("usage", |text| match text {
        "ask" => Ok(UsageMode::Ask),
        "read" => Ok(UsageMode::Read),
        "running" => Ok(UsageMode::Running),
        _ => Err(format!(
            "{} is no way to learn the usage; write \"ask\", \"read\" or \"running\"",
            value::quoted(text)
        )),
    });
    let engine = section.text("engine", |text| match text {
        "llama.cpp" => Ok(Engine::LlamaCpp),
        "vllm" => Ok(Engine::Vllm),
        "sglang" => Ok(Engine::Sglang),
        _ => Err(format!(
            "{} is not known; write \"llama.cpp\", \"vllm\" or \"sglang\", or leave the field out",
            value::quoted(text)
        )),
    });
    (mode.unwrap_or_default(), engine)
}

/// `30d`, `12h`, or `0`. In seconds.
fn kept_for(text: &str) -> Result<i64, String> {
    let (number, unit) = match text {
        "0" => ("0", HOUR),
        _ => match (text.strip_suffix('d'), text.strip_suffix('h')) {
            (Some(number), _) => (number, DAY),
            (_, Some(number)) => (number, HOUR),
            _ => ("", 0),
        },
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err(format!(
            "{} is not a time; write a whole number and d or h, like \"30d\"",
            value::quoted(text)
        ));
    }
    let number: Option<i64> = number.parse().ok();
    number
        .and_then(|number| number.checked_mul(unit))
        .filter(|kept| *kept <= MAX_KEPT)
        .ok_or_else(|| {
            let most = MAX_KEPT / DAY;
            format!(
                "{} is too long; at most \"{most}d\" is taken",
                value::quoted(text)
            )
        })
}
