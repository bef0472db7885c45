//! Sends the calls of commands to a running gateway, through its admin socket, or applies them to a key file. Both
//! return the same JSON.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::admin::keys::KeyApi;
use crate::admin::principal::KeyScope;
use crate::admin::wait::{WAIT, Waited};
use crate::cli::command_error::CommandError;
use crate::cli::current_folder;
use crate::cli::output;
use crate::cli::{ConfigArgs, GatewayArgs, KeysPlace, WaitArgs};
use crate::policy::fleet_link::LimitsUnavailable;
use crate::policy::key_limits::KeyLimits;
use crate::store::config::parse::{self, Overrides};
use crate::store::config::{self, Listen};
use crate::store::key_file;
use crate::store::key_revision::ExpectedRevision;
use crate::store::key_source::last_good_copy;
use crate::store::key_store::KeyStore;
use crate::table::{NO_YIELD, Table};

/// The longest time for a response. A reload of a million keys on a slow disk takes less.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(120);
const JSON: &str = "application/json";
pub(super) const DEFAULT_SOCKET: &str = "keygate.sock";
/// The URL of a gateway without a config.
const DEFAULT_URL: &str = "http://localhost:8080/v1";

/// Sends a command's calls.
pub(super) struct Client {
    runtime: Runtime,
    backend: Backend,
    json: bool,
}

enum Backend {
    Gateway(PathBuf),
    File(Box<KeyFile>),
}

/// A key file without a gateway.
struct KeyFile {
    path: PathBuf,
    table: Arc<Table>,
    key_store: KeyStore,
    url: String,
}

/// A successful response: JSON, or nothing.
pub(super) struct ClientResponse {
    bytes: Bytes,
    json: bool,
}

/// Whether a change is in force on all gateways; inner None: nobody asked.
#[must_use]
pub(super) struct WaitResult(Option<Waited>);

/// What happens when the key file is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IfMissing {
    Fail,
    Create,
}

impl Client {
    /// A client for the gateway that the arguments name.
    pub(super) fn of_gateway(args: &GatewayArgs) -> Result<Self, CommandError> {
        let socket = socket_of(args)?;
        Self::new(Backend::Gateway(socket), args.json)
    }

    /// A client for the key file if the arguments name one, else for the gateway.
    pub(super) fn of_keys(place: &KeysPlace, missing: IfMissing) -> Result<Self, CommandError> {
        match &place.keys {
            None => Self::of_gateway(&place.gateway),
            Some(path) => {
                let file = KeyFile::open(path, missing, &place.gateway.config)?;
                Self::new(Backend::File(Box::new(file)), place.gateway.json)
            }
        }
    }

    fn new(backend: Backend, json: bool) -> Result<Self, CommandError> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CommandError::System("the runtime".to_owned(), error))?;
        Ok(Self {
            runtime,
            backend,
            json,
        })
    }

    /// Whether to print the JSON of responses.
    pub(super) fn wants_json(&self) -> bool {
        self.json
    }

    /// Makes one call. If it is refused, prints the JSON if `--json` is set, and returns an error.
    pub(super) fn call(
        &self,
        method: &Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<ClientResponse, CommandError> {
        self.call_on(method, target, body, None)
    }

    /// The same, only where the key is at this revision; None: at any.
    pub(super) fn call_on(
        &self,
        method: &Method,
        target: &str,
        body: Option<&Value>,
        revision: Option<&str>,
    ) -> Result<ClientResponse, CommandError> {
        self.exchange(method, target, body, revision)
            .map(|(response, _)| response)
    }

    /// Makes a change of keys, and waits until it is in force on all gateways where a time for that is passed.
    pub(super) fn change_keys(
        &self,
        (method, path): (&Method, &str),
        body: Option<&Value>,
        revision: Option<&str>,
        wait: &WaitArgs,
    ) -> Result<(ClientResponse, WaitResult), CommandError> {
        let Some(wait) = &wait.wait else {
            let response = self.call_on(method, path, body, revision)?;
            return Ok((response, WaitResult(None)));
        };
        let target = format!("{path}?wait={wait}");
        let (response, headers) = self.exchange(method, &target, body, revision)?;
        let waited = headers.get(WAIT).and_then(|value| value.to_str().ok());
        let waited = waited.and_then(Waited::of_header);
        if waited == Some(Waited::InForce) {
            self.tell_not_seen();
        }
        Ok((
            response,
            WaitResult(Some(waited.unwrap_or(Waited::Unknown))),
        ))
    }

    /// Names the gateways that nobody waits for, since they have not reported of late: they may be cut off and go on.
    fn tell_not_seen(&self) {
        // The change is made; where the list cannot be had, there is nothing to add.
        let Ok(fleet) = self
            .call(&Method::GET, "/api/fleet", None)
            .and_then(|answer| answer.value())
        else {
            return;
        };
        let gateways = fleet["data"].as_array();
        let named = |is_wanted: fn(&Value) -> bool| {
            let gateways = gateways.into_iter().flatten();
            let wanted = gateways.filter(move |gateway| is_wanted(&gateway["state"]));
            wanted.filter_map(|gateway| gateway["name"].as_str())
        };
        // One that was started again is there beside its former self.
        let seen: Vec<&str> = named(|state| state != "not_seen").collect();
        let unseen = named(|state| state == "not_seen").filter(|name| !seen.contains(name));
        let unseen: Vec<_> = unseen.map(output::escaped).collect();
        if !unseen.is_empty() {
            eprintln!(
                "not seen for more than 10 s, and not waited for: {}; where one of them still runs, it knows nothing of this \
                 change until it reaches the database again",
                unseen.join(", ")
            );
        }
    }

    fn exchange(
        &self,
        method: &Method,
        target: &str,
        body: Option<&Value>,
        revision: Option<&str>,
    ) -> Result<(ClientResponse, HeaderMap), CommandError> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let (status, headers, bytes) = match &self.backend {
            Backend::Gateway(socket) => {
                let response = send(socket, (method, target), JSON, revision, body);
                self.runtime.block_on(response)?
            }
            Backend::File(file) => {
                let api = file.key_api();
                let expected = revision.map_or(ExpectedRevision::Any, |revision| {
                    ExpectedRevision::OneOf(vec![revision.to_owned()])
                });
                let call = api.call(method, target, expected, body.as_bytes());
                let (status, bytes) = self.runtime.block_on(call);
                (status, HeaderMap::new(), bytes)
            }
        };
        if status.is_success() {
            let json = self.json;
            if let Backend::File(file) = &self.backend
                && *method != Method::GET
            {
                let path = file.path.display();
                eprintln!(
                    "written to {path}; a gateway that runs on it takes it over with 'keygate reload'"
                );
            }
            return Ok((ClientResponse { bytes, json }, headers));
        }
        if self.json && !bytes.is_empty() {
            output::print_line(&bytes)?;
        }
        Err(self.refused(status, &bytes))
    }

    /// Asks a gateway for a table.
    pub(super) fn csv(&self, target: &str) -> Result<Bytes, CommandError> {
        let Backend::Gateway(socket) = &self.backend else {
            let message = "a key file has no usage; ask a gateway".to_owned();
            return Err(CommandError::Usage(message));
        };
        let response = send(
            socket,
            (&Method::GET, target),
            "text/csv",
            None,
            String::new(),
        );
        let (status, _, bytes) = self.runtime.block_on(response)?;
        match status.is_success() {
            true => Ok(bytes),
            false => Err(self.refused(status, &bytes)),
        }
    }

    fn refused(&self, status: StatusCode, bytes: &[u8]) -> CommandError {
        if let Backend::File(file) = &self.backend
            && status == StatusCode::INSUFFICIENT_STORAGE
        {
            // Changes that are in force only in memory are lost when this process ends.
            let reason = file
                .key_store
                .status()
                .pending_error
                .as_ref()
                .map(ToString::to_string);
            let reason = reason.unwrap_or_else(|| "the key file cannot be written".to_owned());
            return CommandError::Refused(format!(
                "{}: nothing was changed: {reason}",
                file.path.display()
            ));
        }
        let answer: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let error = &answer["error"];
        if let Some(faults) = error["faults"].as_array().filter(|faults| faults.len() > 1) {
            let lines: Vec<String> = faults.iter().map(fault_line).collect();
            return CommandError::Refused(lines.join("\n"));
        }
        CommandError::Refused(match error["message"].as_str() {
            Some(message) => output::escaped(message),
            None => format!("the gateway answers {status}"),
        })
    }
}

impl ClientResponse {
    /// Prints the JSON if `--json` is set. Returns whether it is.
    pub(super) fn print_json(&self) -> Result<bool, CommandError> {
        if self.json && !self.bytes.is_empty() {
            output::print_line(&self.bytes)?;
        }
        Ok(self.json)
    }

    /// The JSON as bytes.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The JSON, parsed.
    pub(super) fn value(&self) -> Result<Value, CommandError> {
        serde_json::from_slice(&self.bytes)
            .map_err(|error| CommandError::Refused(format!("the answer is no JSON: {error}")))
    }
}

impl WaitResult {
    /// # Errors
    /// The change is not in force everywhere, or nobody knows. It was made in any case.
    pub(super) fn check(self) -> Result<(), CommandError> {
        match self.0 {
            None | Some(Waited::InForce) => Ok(()),
            Some(Waited::Behind(names)) => {
                let names = names.iter().map(|name| output::escaped(name));
                Err(CommandError::NotEverywhere(names.collect()))
            }
            Some(Waited::Unknown) => Err(CommandError::NotEverywhere(Vec::new())),
        }
    }
}

impl KeyFile {
    fn open(path: &Path, missing: IfMissing, config: &ConfigArgs) -> Result<Self, CommandError> {
        let system = |error| CommandError::System(path.display().to_string(), error);
        if last_good_copy::state_file(path).exists() {
            return Err(CommandError::Usage(format!(
                "{}: is the last good copy of a gateway whose keys are in a database, and is not changed by hand; ask a gateway",
                path.display()
            )));
        }
        if missing == IfMissing::Create && !path.exists() {
            key_file::create(path).map_err(system)?;
        }
        let table = Arc::new(Table::default());
        let loaded = key_file::read(path, &table, NO_YIELD)
            .map_err(|error| CommandError::Faulty(error.faults().to_vec()))?;
        let settings = config::KeysConfig {
            source: config::KeysSource::File,
            file: path.into(),
            max_stale: None,
            named: true,
            watch: false,
            // Accept every change that another process wrote meanwhile: no gateway uses the keys read here.
            max_drop_percent: 100,
            default_limits: KeyLimits::default(),
            limits_unavailable: LimitsUnavailable::LocalShare,
        };
        let key_store =
            KeyStore::start(&settings, Arc::clone(&table), loaded, |_| ()).map_err(system)?;
        Ok(Self {
            path: path.into(),
            table,
            key_store,
            url: configured_url(config).unwrap_or_else(|| DEFAULT_URL.to_owned()),
        })
    }

    fn key_api(&self) -> KeyApi<'_> {
        KeyApi {
            scope: KeyScope::all(),
            table: &self.table,
            key_store: &self.key_store,
            routing: None,
            url: &self.url,
            keeps_uses: false,
        }
    }
}

fn configured_url(config: &ConfigArgs) -> Option<String> {
    let config = parse::load(&config.find().ok()??, &Overrides::default()).ok()?;
    let first: &Listen = config.listen.first()?;
    Some(config.url(first) + "/v1")
}

/// The socket: --socket, else $KEYGATE_SOCKET, else the config's, else ./keygate.sock.
fn socket_of(args: &GatewayArgs) -> Result<PathBuf, CommandError> {
    let environment = std::env::var_os("KEYGATE_SOCKET").filter(|path| !path.is_empty());
    if let Some(socket) = args.socket.clone().or(environment.map(PathBuf::from)) {
        return Ok(socket);
    }
    let faulty = |fault| CommandError::Faulty(vec![fault]);
    let Some(file) = args.config.find().map_err(faulty)? else {
        let socket = Path::new(DEFAULT_SOCKET);
        current_folder::check(socket, "--socket").map_err(faulty)?;
        return Ok(socket.into());
    };
    let reading = parse::read(Some(&file), &Overrides::default());
    match (reading.socket, reading.config) {
        (Some(socket), _) => Ok(socket),
        (None, Err(faults)) => Err(CommandError::Faulty(faults)),
        (None, Ok(config)) => Ok(config.admin.socket),
    }
}

async fn send(
    socket: &Path,
    (method, target): (&Method, &str),
    accept: &str,
    revision: Option<&str>,
    body: String,
) -> Result<(StatusCode, HeaderMap, Bytes), CommandError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| CommandError::NoGateway(socket.into(), error))?;
    let no_answer = |what: String| CommandError::NoAnswer(socket.into(), what);
    let broken = |error: hyper::Error| no_answer(error.to_string());
    let mut request = Request::builder();
    if let Some(revision) = revision {
        request = request.header("if-match", format!("\"{revision}\""));
    }
    let request = request
        .method(method)
        .uri(target)
        .header("host", "localhost")
        .header("accept", accept)
        .header("content-type", JSON)
        .header("connection", "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| CommandError::Input(error.to_string()))?;
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(broken)?;
        connection.abort();
        Ok((head.status, head.headers, body.to_bytes()))
    };
    timeout(RESPONSE_TIMEOUT, exchange)
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
