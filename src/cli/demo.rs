//! `keygate demo`: a gateway with one key and one account in front of a mock upstream. It needs nothing but the binary. Its
//! files, the database among them, are in a temporary folder, which is deleted at the end.

use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use crate::admin::{self, Peer, Services, session};
use crate::cli::mock_upstream;
use crate::cli::serve::{Bootstrap, serve};
use crate::cli::start_error::StartError;
use crate::policy::key::KeyName;
use crate::policy::key_limits::KeyAllowance;
use crate::policy::model_access::ModelAccess;
use crate::policy::network::AllowFrom;
use crate::policy::person::Role;
use crate::runtime::wall_clock;
use crate::store::config::parse::{self, Overrides};
use crate::store::key_file;
use crate::store::patch::NewKey;

const DATA_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 9180;
const ACCOUNT: &str = "demo-team";
const OWNER: &str = "owner@example.com";

/// Runs the demo until Ctrl-C or SIGTERM.
#[must_use]
pub(super) fn run() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("keygate demo: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<(), StartError> {
    let system = |what: &'static str| move |error| StartError::System(what.into(), error);
    let bootstrap = Bootstrap::new()?;
    let folder = tempfile::Builder::new().prefix("keygate-demo-").tempdir();
    let folder = folder.map_err(system("a temporary folder"))?;
    let upstream = mock_upstream::start().map_err(system("the stand-in upstream"))?;
    let file = folder.path().join("keygate.toml");
    write_config(&file, upstream).map_err(system("the demo's config"))?;
    let config = parse::load(&file, &Overrides::default()).map_err(StartError::Files)?;
    let source = Arc::new(move || parse::read(Some(&file), &Overrides::default()));
    let mut shown = Ok(());
    let ended = serve(bootstrap, config, source, async |services| {
        shown = introduce(services).await
    });
    shown.map_err(system("standard output"))?;
    ended
}

fn write_config(file: &Path, upstream: SocketAddr) -> io::Result<()> {
    let (data, admin) = (free_port(DATA_PORT)?, free_port(ADMIN_PORT)?);
    fs::write(
        file,
        format!(
            "listen = \"127.0.0.1:{data}\"\n\
             [keys]\nfile = \"keys.jsonl\"\n\
             [admin]\nlisten = \"127.0.0.1:{admin}\"\n\
             [log]\nformat = \"text\"\n\
             [limits]\nconnections = 256\n\
             [timeouts]\ndrain = \"2s\"\n\
             [[upstreams]]\nname = \"stand-in\"\nurl = \"http://{upstream}\"\nmodels = {models:?}\n",
            models = mock_upstream::MODELS,
        ),
    )?;
    key_file::create(&file.with_file_name("keys.jsonl"))
}

/// This port if it is free, else any free port.
fn free_port(wanted: u16) -> io::Result<u16> {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted));
    let listener = taken.or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(listener.local_addr()?.port())
}

/// Creates the key and the account, and prints how to use them.
async fn introduce(services: &Arc<Services>) -> io::Result<()> {
    let name = KeyName::parse("demo").map_err(io::Error::other)?;
    let (model_access, allow_from) = (ModelAccess::All, AllowFrom::Anywhere);
    let new = NewKey {
        name,
        model_access,
        allow_from,
        expires_at: None,
        account: None,
        created_by: None,
        allowance: KeyAllowance::default(),
    };
    let created = services
        .key_store
        .create(new, wall_clock::now())
        .await
        .map_err(io::Error::other)?;
    let (url, token) = (&services.url, created.token.reveal());
    let invitation = invite_owner(services).await?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "keygate demo: a gateway with one key, in front of a stand-in for a model\n"
    )?;
    writeln!(out, "OpenAI Compatible URL: {url}")?;
    writeln!(out, "Bearer Token: {token}")?;
    let panel = session::panel_link(services, wall_clock::now()).map_err(io::Error::other)?;
    if let Some(panel) = panel {
        let file = services.config.admin.token_file.display();
        writeln!(out, "Panel: {}", panel.link)?;
        writeln!(
            out,
            "(That link signs in once, within five minutes. Afterwards the admin token does: {file})"
        )?;
        writeln!(
            out,
            "The same panel as an invited owner sees it: {invitation}"
        )?;
        writeln!(
            out,
            "(That link makes {OWNER} the owner of the account {ACCOUNT}. It works once. Open it in a private window, so \
             that you stay signed in as the operator.)"
        )?;
    }
    writeln!(out, "\nTry it:\n")?;
    writeln!(out, "{}", curl(url, token))?;
    writeln!(out, "\nCtrl-C ends it and leaves nothing behind.\n")?;
    out.flush()
}

/// Makes an account and invites its owner; the link of the invitation.
async fn invite_owner(services: &Arc<Services>) -> io::Result<String> {
    let account = json!({"id": ACCOUNT, "name": "Demo team"});
    post(services, "/api/accounts", &account).await?;
    let invitation = json!({"email": OWNER, "role": Role::Owner.label()});
    let path = format!("/api/accounts/{ACCOUNT}/invitations");
    let answer = post(services, &path, &invitation).await?;
    Ok(answer["link"].as_str().unwrap_or_default().to_owned())
}

/// A call of the admin API, as by its socket.
async fn post(services: &Arc<Services>, path: &str, body: &Value) -> io::Result<Value> {
    let request = Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(io::Error::other)?;
    let uid = Some(rustix::process::getuid().as_raw());
    let answer = admin::handle(services, Peer::Socket { uid }, request).await;
    let status = answer.status();
    let body = answer.into_body().collect().await;
    let body = body.map_err(io::Error::other)?.to_bytes();
    match status.is_success() {
        true => serde_json::from_slice(&body).map_err(io::Error::other),
        false => Err(io::Error::other(format!("{path}: {status}"))),
    }
}

/// A command that works in any shell.
fn curl(url: &str, token: &str) -> String {
    let body = format!(
        r#"{{"model":"{}","stream":true,"messages":[{{"role":"user","content":"Hello"}}]}}"#,
        mock_upstream::MODELS[0]
    );
    format!(
        "curl -N {url}/chat/completions -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' -d '{body}'"
    )
}
