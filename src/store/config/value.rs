//! Parses single config values. This file knows neither files nor fields. Each error is `what; remedy`, and none
//! repeats a text that may contain a secret.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::policy::fleet_link::LimitsUnavailable;
use crate::policy::text::name_fault;
use crate::store::config::{Listen, LogFormat, ReplicaUrl};

/// The longest path of a Unix socket: the kernel's limit of 108 bytes includes a final zero byte.
const MAX_SOCKET_PATH: usize = 107;
/// The longest timeout. Much longer ones overflow the clock.
const MAX_DURATION: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest name of an upstream or a model, in characters.
const MAX_NAME: usize = 256;

/// `10s`, `5m`, `250ms`, `1h`, or zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let number = digits(number);
    let milliseconds = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let (Some(number), Some(milliseconds)) = (number, milliseconds) else {
        return Err(format!(
            "{} is not a duration; write a whole number and ms, s, m or h, like \"10s\"",
            quoted(text)
        ));
    };
    number
        .checked_mul(milliseconds)
        .map(Duration::from_millis)
        .filter(|duration| *duration <= MAX_DURATION)
        .ok_or_else(|| format!("{} is too long; at most \"168h\" is taken", quoted(text)))
}

/// A duration that is not zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must not be zero; write how long to wait, like \"10s\"".to_owned()),
        duration => Ok(duration),
    }
}

/// `32MiB`, `1GiB`, `64KiB`, the decimal `KB`, `MB`, `GB`, or a plain number of bytes.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        _ => None,
    };
    let (Some(number), Some(factor)) = (digits(number), factor) else {
        return Err(format!(
            "{} is not a size; write a whole number and KiB, MiB, GiB, KB, MB or GB, like \"32MiB\"",
            quoted(text)
        ));
    };
    number
        .checked_mul(factor)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| format!("{} is too large; write a smaller size", quoted(text)))
}

/// `unix:/path`, or an address as in [`socket_address`].
pub(crate) fn listen(text: &str, folder: &Path) -> Result<Listen, String> {
    match text.strip_prefix("unix:") {
        Some(path) => socket_path(path, folder).map(Listen::Unix),
        None => socket_address(text).map(Listen::Tcp),
    }
}

/// An IP address with its port. Host names are not accepted: their address may change, and with it who can connect.
pub(crate) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port = text.rsplit_once(':').map_or(text, |(_, port)| port);
    if matches!(text.strip_suffix(port), Some("" | ":" | "*:")) && port.parse::<u16>().is_ok() {
        return Err(format!(
            "{} has no address; write \"[::]:{port}\" for all, or \"127.0.0.1:{port}\" for this machine alone",
            quoted(text)
        ));
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let address = SocketAddr::new(address, 8080);
        return Err(format!(
            "{} has no port; write it like \"{address}\"",
            quoted(text)
        ));
    }
    Err(format!(
        "{} is not an address and port; write it like \"[::]:8080\", \"127.0.0.1:8080\" or \"unix:/run/keygate/http.sock\" \
         (names are not taken here)",
        quoted(text)
    ))
}

pub(crate) fn socket_path(text: &str, folder: &Path) -> Result<PathBuf, String> {
    check_socket_path(path(text, folder)?)
}

/// Checks that the path is short enough for a socket.
pub(crate) fn check_socket_path(path: PathBuf) -> Result<PathBuf, String> {
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        return Err(format!(
            "is a path of {length} bytes, and a socket's may have {MAX_SOCKET_PATH}; choose a shorter one"
        ));
    }
    Ok(path)
}

/// A path. A relative one starts at `folder`.
pub(crate) fn path(text: &str, folder: &Path) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("is not a path; name a file".to_owned());
    }
    Ok(folder.join(text))
}

/// An IPv4 or IPv6 network, or a single address. Host bits are cleared.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let malformed = || {
        format!(
            "{} is not a network; write it like \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.7\"",
            quoted(text)
        )
    };
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| malformed())?;
    if matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
        return Err(format!(
            "{} is an IPv4 network in IPv6 clothes; write it as IPv4, such clients are judged by their IPv4 address",
            quoted(text)
        ));
    }
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => whole,
        Some(prefix) => plain_number(prefix)
            .and_then(|prefix| u8::try_from(prefix).ok())
            .ok_or_else(malformed)?,
    };
    IpNet::new(address, prefix)
        .map(|network| network.trunc())
        .map_err(|_| malformed())
}

/// An http or https URL of scheme and authority alone.
pub(crate) fn base_url(text: &str) -> Result<ReplicaUrl, String> {
    let (scheme, rest) = text.split_once("://").ok_or_else(|| {
        "has no scheme; write it like \"http://127.0.0.1:8000\" or \"https://llm.example.com\""
            .to_owned()
    })?;
    let https = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return Err("has another scheme; write http:// or https://".to_owned()),
    };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    if rest[..end].contains('@') {
        return Err(
            "holds a user name or a password; drop it (an upstream's credential is named by api_key_env or \
             api_key_file)"
                .to_owned(),
        );
    }
    let (host, port) = authority(&rest[..end])?;
    if port == Some(0) {
        return Err("names port 0; write the port the server listens on".to_owned());
    }
    let url = ReplicaUrl {
        https,
        host,
        port: port.unwrap_or(if https { 443 } else { 80 }),
    };
    if end < rest.len() {
        return Err(format!(
            "must be scheme and authority only; write \"{url}\", the path of each request is added to it"
        ));
    }
    Ok(url)
}

/// An origin in exactly the form that browsers send, since it is compared byte by byte.
pub(crate) fn origin(text: &str) -> Result<String, String> {
    if text == "*" {
        return Err("must not be \"*\"; list the origins that may call the gateway".to_owned());
    }
    let example = "write it like \"https://app.example.com\"";
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| format!("{} is not an origin; {example}", quoted(text)))?;
    let scheme_fits = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c));
    let (host, port) = match authority(rest) {
        Ok(parts) if scheme_fits => parts,
        _ => {
            return Err(format!(
                "{} is not scheme, host and port alone; {example}",
                quoted(text)
            ));
        }
    };
    let port =
        port.filter(|port| !matches!((scheme, port), ("http" | "ws", 80) | ("https" | "wss", 443)));
    let host = bracketed(&host);
    let exact = match port {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    };
    if exact == text {
        Ok(exact)
    } else {
        Err(format!(
            "{} is not the form that browsers send; write \"{exact}\"",
            quoted(text)
        ))
    }
}

/// A host name or an address, without a port. The result has no brackets around IPv6.
pub(crate) fn host(text: &str) -> Result<String, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(text).parse::<Ipv6Addr>() {
        return Ok(address.to_string());
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(address.to_string());
    }
    let refused = |remedy: &str| Err(format!("{} is not a host name; {remedy}", quoted(text)));
    let labels: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    let label_fits = |label: &&str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !text.is_ascii() {
        return refused("write it in its ASCII form, which begins with xn--");
    }
    // Some resolvers read `127.1` and `0x7f.0.0.1` as addresses, others as names.
    let numeric = labels.last().is_some_and(|label| {
        label.bytes().all(|byte| byte.is_ascii_digit()) || label.starts_with("0x")
    });
    if text.len() > 253 || !labels.iter().all(label_fits) || numeric {
        return refused("write a name or an address, like llm.example.com or 192.0.2.7");
    }
    Ok(text.to_ascii_lowercase())
}

/// The name of an upstream or a model.
pub(crate) fn name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("is empty; write a name".to_owned());
    }
    if text.chars().count() > MAX_NAME {
        return Err(format!(
            "is longer than {MAX_NAME} characters; write a shorter one"
        ));
    }
    match name_fault(text) {
        Some(fault) => Err(fault.to_owned()),
        None => Ok(text.to_owned()),
    }
}

/// `local_share` or `refuse`.
pub(crate) fn limits_unavailable(text: &str) -> Result<LimitsUnavailable, String> {
    let known = LimitsUnavailable::ALL.into_iter();
    let mut known = known.filter(|known| known.label() == text);
    known.next().ok_or_else(|| {
        format!(
            "{} is not known here; write \"local_share\" or \"refuse\"",
            quoted(text)
        )
    })
}

/// `text` or `json`.
pub(crate) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!(
            "{} is not a log format; write \"text\" or \"json\", or leave the field out for text on a terminal and \
             JSON elsewhere",
            quoted(text)
        )),
    }
}

/// A text in quotes for a message: control characters escaped, and cut if long.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

fn authority(text: &str) -> Result<(String, Option<u16>), String> {
    let (name, port) = match text.find(']') {
        Some(end) if text.starts_with('[') => match text[end + 1..].strip_prefix(':') {
            Some(port) => (&text[..=end], Some(port)),
            None => (text, None),
        },
        _ => match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    if name.contains(':') && !name.starts_with('[') {
        return Err(
            "holds an IPv6 address without brackets; write it like \"http://[2001:db8::1]:8000\""
                .to_owned(),
        );
    }
    let port = match port {
        None => None,
        Some(port) => Some(
            plain_number(port)
                .and_then(|port| u16::try_from(port).ok())
                .ok_or_else(|| {
                    format!("{} is not a port; write a number up to 65535", quoted(port))
                })?,
        ),
    };
    Ok((host(name)?, port))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Digits alone: `parse` would also accept `+1`.
fn digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// Digits without a leading zero, which some programs read as octal.
fn plain_number(text: &str) -> Option<u64> {
    digits(text).filter(|_| text == "0" || !text.starts_with('0'))
}
