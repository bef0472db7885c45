//! Whom a command speaks to: a running gateway, through its admin socket, or a key file alone. Both answer the same
//! calls with the same JSON.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::admin::keys::Keyring;
use crate::store::config::parse::{self, Overrides};
use crate::store::config::{self, Listen};
use crate::store::key_file;
use crate::store::key_store::KeyStore;
use crate::table::{NO_YIELD, Table};

use super::failure::Failure;
use super::output;
use super::{ConfigArgs, GatewayArgs, KeysPlace};

/// How long a gateway may take: a reload of a million keys on a slow disk is well within.
const PATIENCE: Duration = Duration::from_secs(120);
const DEFAULT_SOCKET: &str = "keygate.sock";
/// Where users find a gateway that nobody configured.
const DEFAULT_URL: &str = "http://localhost:8080/v1";

/// Who answers a command's calls.
pub(super) struct Client {
    runtime: Runtime,
    answers: Answers,
    json: bool,
}

enum Answers {
    Gateway(PathBuf),
    File(Box<KeyFile>),
}

/// A key file without a gateway.
struct KeyFile {
    path: PathBuf,
    table: Arc<Table>,
    keeper: KeyStore,
    url: String,
}

/// What was answered: JSON, or nothing.
pub(super) struct Answer {
    bytes: Bytes,
    json: bool,
}

/// Whether a key file that is not there is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Refused,
    Made,
}

impl Client {
    /// The gateway that the arguments name.
    pub(super) fn of_gateway(args: &GatewayArgs) -> Result<Self, Failure> {
        let socket = socket_of(args)?;
        Self::new(Answers::Gateway(socket), args.json)
    }

    /// The gateway, or the key file alone where one is named.
    pub(super) fn of_keys(place: &KeysPlace, missing: Missing) -> Result<Self, Failure> {
        match &place.keys {
            None => Self::of_gateway(&place.gateway),
            Some(path) => {
                let file = KeyFile::open(path, missing, &place.gateway.config)?;
                Self::new(Answers::File(Box::new(file)), place.gateway.json)
            }
        }
    }

    fn new(answers: Answers, json: bool) -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::System("the runtime".to_owned(), error))?;
        Ok(Self {
            runtime,
            answers,
            json,
        })
    }

    /// Whether the answers' JSON is to be printed.
    pub(super) fn wants_json(&self) -> bool {
        self.json
    }

    /// One call of the admin API. What is refused is a failure; its JSON is printed where JSON is wanted.
    pub(super) fn call(
        &self,
        method: &Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let (status, bytes) = match &self.answers {
            Answers::Gateway(socket) => {
                let answer = ask(socket, method, target, body);
                self.runtime.block_on(answer)?
            }
            Answers::File(file) => {
                let keyring = file.keyring();
                let answer = keyring.answer(method, target, body.as_bytes());
                self.runtime.block_on(answer).into_parts()
            }
        };
        if status.is_success() {
            let json = self.json;
            if let Answers::File(file) = &self.answers
                && *method != Method::GET
            {
                let path = file.path.display();
                eprintln!(
                    "written to {path}; a gateway that runs on it takes it over with 'keygate reload'"
                );
            }
            return Ok(Answer { bytes, json });
        }
        if self.json && !bytes.is_empty() {
            output::print_line(&bytes)?;
        }
        Err(self.refused(status, &bytes))
    }

    fn refused(&self, status: StatusCode, bytes: &[u8]) -> Failure {
        if let Answers::File(file) = &self.answers
            && status == StatusCode::INSUFFICIENT_STORAGE
        {
            // Whatever is in force in this process ends with it.
            let obstacle = file
                .keeper
                .status()
                .pending_error
                .as_ref()
                .map(ToString::to_string);
            let obstacle = obstacle.unwrap_or_else(|| "the key file cannot be written".to_owned());
            return Failure::Refused(format!(
                "{}: nothing was changed: {obstacle}",
                file.path.display()
            ));
        }
        let answer: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let error = &answer["error"];
        if let Some(faults) = error["faults"].as_array().filter(|faults| faults.len() > 1) {
            let lines: Vec<String> = faults.iter().map(fault_line).collect();
            return Failure::Refused(lines.join("\n"));
        }
        Failure::Refused(match error["message"].as_str() {
            Some(message) => output::escaped(message),
            None => format!("the gateway answers {status}"),
        })
    }
}

impl Answer {
    /// Where JSON is wanted, prints it as it came, and says so.
    pub(super) fn print_json(&self) -> Result<bool, Failure> {
        if self.json && !self.bytes.is_empty() {
            output::print_line(&self.bytes)?;
        }
        Ok(self.json)
    }

    /// The JSON's bytes.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The JSON.
    pub(super) fn value(&self) -> Result<Value, Failure> {
        serde_json::from_slice(&self.bytes)
            .map_err(|error| Failure::Refused(format!("the answer is no JSON: {error}")))
    }
}

impl KeyFile {
    fn open(path: &Path, missing: Missing, config: &ConfigArgs) -> Result<Self, Failure> {
        let system = |error| Failure::System(path.display().to_string(), error);
        if missing == Missing::Made && !path.exists() {
            key_file::create(path).map_err(system)?;
        }
        let table = Arc::new(Table::default());
        let loaded = key_file::read(path, &table, NO_YIELD)
            .map_err(|error| Failure::Faulty(error.faults().to_vec()))?;
        let settings = config::KeysConfig {
            file: path.into(),
            named: true,
            watch: false,
            // What others write meanwhile counts: nobody serves by what was read first.
            max_drop_percent: 100,
        };
        let keeper =
            KeyStore::start(&settings, Arc::clone(&table), loaded, |_| ()).map_err(system)?;
        Ok(Self {
            path: path.into(),
            table,
            keeper,
            url: configured_url(config).unwrap_or_else(|| DEFAULT_URL.to_owned()),
        })
    }

    fn keyring(&self) -> Keyring<'_> {
        Keyring {
            table: &self.table,
            keeper: &self.keeper,
            routing: None,
            url: &self.url,
        }
    }
}

fn configured_url(config: &ConfigArgs) -> Option<String> {
    let config = parse::load(&config.find()?, &Overrides::default()).ok()?;
    let first: &Listen = config.listen.first()?;
    Some(config.url(first) + "/v1")
}

/// --socket, else $KEYGATE_SOCKET, else the config's, else ./keygate.sock.
fn socket_of(args: &GatewayArgs) -> Result<PathBuf, Failure> {
    let environment = std::env::var_os("KEYGATE_SOCKET").filter(|path| !path.is_empty());
    if let Some(socket) = args.socket.clone().or(environment.map(PathBuf::from)) {
        return Ok(socket);
    }
    let Some(file) = args.config.find() else {
        return Ok(DEFAULT_SOCKET.into());
    };
    let reading = parse::read(Some(&file), &Overrides::default());
    match (reading.socket, reading.config) {
        (Some(socket), _) => Ok(socket),
        (None, Err(faults)) => Err(Failure::Faulty(faults)),
        (None, Ok(config)) => Ok(config.admin.socket),
    }
}

async fn ask(
    socket: &Path,
    method: &Method,
    target: &str,
    body: String,
) -> Result<(StatusCode, Bytes), Failure> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| Failure::NoGateway(socket.into(), error))?;
    let no_answer = |what: String| Failure::NoAnswer(socket.into(), what);
    let broken = |error: hyper::Error| no_answer(error.to_string());
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("connection", "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| Failure::Input(error.to_string()))?;
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(broken)?;
        connection.abort();
        Ok((status, body.to_bytes()))
    };
    timeout(PATIENCE, exchange)
        .await
        .unwrap_or_else(|_| Err(no_answer("none came in two minutes".to_owned())))
}

fn fault_line(fault: &Value) -> String {
    let text = |name: &str| {
        fault[name]
            .as_str()
            .map(output::escaped)
            .unwrap_or_default()
    };
    let (file, line, field, message) =
        (text("file"), &fault["line"], text("field"), text("message"));
    match field.as_str() {
        "" => format!("{file}:{line}: {message}"),
        field => format!("{file}:{line}: {field}: {message}"),
    }
}
