//! What tests made secret, and what the gateway said: kept where $KEYGATE_SWEEP says, and searched for each other once
//! every test has run (`tests/sweep`). Without the variable nothing is kept.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::client::Response;
use super::lock;

/// A secret shorter than this would be found by accident.
const SHORTEST: usize = 16;

/// Something that must stand in no log, metric, error, admin answer or command line.
pub fn secret(secret: &str) {
    if secret.len() >= SHORTEST {
        keep("secrets", format_args!("{secret}\n"));
    }
}

/// Something the gateway or a command said. `kind` is one word.
pub fn said(kind: &str, text: &str) {
    keep(&format!("said-{kind}"), format_args!("{text}\n"));
}

/// An answer of the gateway's own: each of an admin listener, and each error. The one that shows a new key's token does
/// so once.
pub fn answered(response: &Response, by_admin: bool) {
    if folder().is_none() || !(by_admin || response.status >= 400 || response.status == 201) {
        return;
    }
    let text = format!(
        "{} {:?} {}",
        response.status,
        response.headers,
        response.text()
    );
    match response.status {
        201 => said("created", &without_its_token(&text)),
        400.. => said("errors", &text),
        _ => said("admin", &text),
    }
}

/// What `keys create` or the admin API said, without the token that it is there to show. The token is a secret from now on.
pub fn without_its_token(text: &str) -> String {
    let begin = text.match_indices("kg_").find_map(|(at, _)| {
        let token = text.get(at..at + 52)?;
        let rest = token[3..].bytes().all(|byte| byte.is_ascii_alphanumeric());
        rest.then_some(at)
    });
    let Some(begin) = begin else {
        return text.to_owned();
    };
    secret(&text[begin..begin + 52]);
    format!("{}{}", &text[..begin], &text[begin + 52..])
}

/// All that can be asked for without changing anything, and the process's command line.
pub fn everything_of(pid: u32, socket: &Path) {
    if folder().is_none() {
        return;
    }
    // Some tests leave no process behind, or no socket.
    if let Ok(words) = std::fs::read_to_string(format!("/proc/{pid}/cmdline")) {
        said("cmdline", &words.replace('\0', " "));
    }
    for path in [
        "/metrics",
        "/api/status",
        "/api/keys?limit=1000",
        "/api/models",
        "/api/overview",
    ] {
        if let Ok(text) = ask(socket, path) {
            said("admin", &text);
        }
    }
}

fn ask(socket: &Path, path: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = PathBuf::from(std::env::var_os("KEYGATE_SWEEP")?);
        std::fs::create_dir_all(&folder).expect("the folder to keep it in");
        Some(folder)
    });
    folder.as_deref()
}

fn keep(kind: &str, text: std::fmt::Arguments<'_>) {
    static FILES: OnceLock<Mutex<HashMap<String, File>>> = OnceLock::new();
    let Some(folder) = folder() else { return };
    let mut files = lock(FILES.get_or_init(Mutex::default));
    let file = files.entry(kind.to_owned()).or_insert_with(|| {
        let path = folder.join(format!("{kind}-{}", std::process::id()));
        let mut new = OpenOptions::new();
        new.create(true).append(true).open(path).expect("opened")
    });
    file.write_all(text.to_string().as_bytes()).expect("kept");
}
