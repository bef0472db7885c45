//! Where a PostgreSQL database is, and how to sign in there: `postgres://USER@HOST:PORT/NAME?sslmode=require`.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

const DEFAULT_PORT: u16 = 5432;

/// Where a PostgreSQL database is.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    /// The role that the gateway signs in as.
    pub user: String,
    /// Its password; None: the server asks for none.
    pub password: Option<Zeroizing<String>>,
    /// A name, an address, or the folder of a Unix socket (it begins with `/`).
    pub host: String,
    /// The port.
    pub port: u16,
    /// The database.
    pub name: String,
    /// Whether the connection is encrypted, and the server's certificate checked.
    pub tls: PostgresTls,
}

/// How a connection is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostgresTls {
    /// Not at all: the connection does not leave this machine.
    Disabled,
    /// By TLS. The server's certificate must be of its host, by a CA of this PEM file; None: by one of the system's.
    Required {
        /// The PEM file.
        roots: Option<PathBuf>,
    },
}

impl PostgresUrl {
    /// Reads what follows `postgres://`. Relative paths start at `folder`. Messages never contain the URL: it may hold a
    /// password.
    ///
    /// # Errors
    /// What is wrong, and the remedy.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let remedy = "write \"postgres://USER@HOST:PORT/NAME?sslmode=require\"";
        let missing = |what: &str| format!("names no {what}; {remedy}");
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        let (server, name) = place.split_once('/').ok_or_else(|| missing("database"))?;
        let (user, server) = server.rsplit_once('@').ok_or_else(|| missing("user"))?;
        let (user, password) = match user.split_once(':') {
            Some((user, password)) => (user, Some(Zeroizing::new(decoded(password)?))),
            None => (user, None),
        };
        let (host, port) = split_port(server)
            .ok_or_else(|| format!("has a port that is no number from 1 to 65535; {remedy}"))?;
        let (user, host, name) = (decoded(user)?, decoded(host)?, decoded(name)?);
        for (what, text) in [("user", &user), ("host", &host), ("database", &name)] {
            if text.is_empty() {
                return Err(missing(what));
            }
        }
        let tls = tls(query, &host, folder)?;
        Ok(Self {
            user,
            password: password.filter(|password| !password.is_empty()),
            host,
            port,
            name,
            tls,
        })
    }

    /// What messages call the database: without the user and the password.
    #[must_use]
    pub fn place(&self) -> String {
        let Self {
            host, port, name, ..
        } = self;
        match host.contains(':') {
            true => format!("postgres://[{host}]:{port}/{name}"),
            false => format!("postgres://{host}:{port}/{name}"),
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())
    }
}

/// Host and port, as far as they are named. None: that is no port.
fn split_port(server: &str) -> Option<(&str, u16)> {
    let (host, port) = match server
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((address, "")) => (address, None),
        Some((address, port)) => (address, Some(port.strip_prefix(':')?)),
        None => match server.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None => DEFAULT_PORT,
    };
    Some((host, port))
}

fn tls(query: &str, host: &str, folder: &Path) -> Result<PostgresTls, String> {
    let (mut mode, mut roots) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", value)) => mode = Some(decoded(value)?),
            Some(("sslrootcert", value)) => roots = Some(folder.join(decoded(value)?)),
            _ => {
                return Err(
                    "has a parameter that is not known; sslmode and sslrootcert are, drop the others"
                        .to_owned(),
                );
            }
        }
    }
    let is_local = is_local(host);
    let is_disabled = match mode.as_deref() {
        Some("require") => false,
        Some("disable") => true,
        None => is_local && roots.is_none(),
        Some(_) => {
            return Err(
                "has an sslmode that is not known; write sslmode=require (the certificate is always checked), or \
                 sslmode=disable on this machine"
                    .to_owned(),
            );
        }
    };
    match is_disabled {
        true if !is_local => Err(
            "would send passwords and usage across the network in clear; write sslmode=require"
                .to_owned(),
        ),
        true => Ok(PostgresTls::Disabled),
        false if host.starts_with('/') => Err(
            "asks for TLS over a Unix socket, which has none; drop sslmode and sslrootcert"
                .to_owned(),
        ),
        false => Ok(PostgresTls::Required { roots }),
    }
}

/// Whether a connection to this host does not leave the machine.
fn is_local(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.parse();
    match address {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.starts_with('/'),
    }
}

/// The text without its percent-encoding (RFC 3986 2.1).
fn decoded(text: &str) -> Result<String, String> {
    let malformed = || {
        "has a % that is not followed by two hexadecimal digits; write %25 for the character %"
            .to_owned()
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = behind.get(..2).ok_or_else(malformed)?;
        let digits = std::str::from_utf8(digits).map_err(|_| malformed())?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(malformed());
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| malformed())?);
        rest = &behind[2..];
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => Ok(text),
        _ => Err(
            "has characters that no name has; write it in UTF-8 and without control characters"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PostgresUrl, String> {
        PostgresUrl::parse(text, Path::new("/etc/keygate"))
    }

    #[test]
    fn a_url_says_where_and_who() {
        let url =
            parse("keygate:p%40ss@db.example.com:6000/usage?sslmode=require&sslrootcert=ca.pem")
                .unwrap();
        assert_eq!(
            url,
            PostgresUrl {
                user: "keygate".to_owned(),
                password: Some(Zeroizing::new("p@ss".to_owned())),
                host: "db.example.com".to_owned(),
                port: 6000,
                name: "usage".to_owned(),
                tls: PostgresTls::Required {
                    roots: Some("/etc/keygate/ca.pem".into())
                },
            }
        );
        for (text, place, tls) in [
            (
                "u@127.0.0.1/n",
                "postgres://127.0.0.1:5432/n",
                PostgresTls::Disabled,
            ),
            ("u@[::1]:1/n", "postgres://[::1]:1/n", PostgresTls::Disabled),
            (
                "u@%2Frun%2Fpostgresql/n",
                "postgres:///run/postgresql:5432/n",
                PostgresTls::Disabled,
            ),
            (
                "u@localhost/n?sslmode=require",
                "postgres://localhost:5432/n",
                PostgresTls::Required { roots: None },
            ),
            // Whoever names no mode gets the safe one.
            (
                "u@h/n",
                "postgres://h:5432/n",
                PostgresTls::Required { roots: None },
            ),
        ] {
            let url = parse(text).unwrap();
            assert_eq!((url.place(), &url.tls), (place.to_owned(), &tls), "{text}");
        }
    }

    #[test]
    fn nothing_shows_the_password() {
        let url = parse("keygate:secret@h/n").unwrap();
        assert_eq!(
            format!("{url:?} {}", url.place()),
            "postgres://h:5432/n postgres://h:5432/n"
        );
        for (text, part) in [
            ("u:secret@h", "names no database"),
            ("u:secret@h/", "names no database"),
            ("h/secret", "names no user"),
            (":secret@h/n", "names no user"),
            ("u:secret@/n", "names no host"),
            ("u:secret@h:0/n", "a port"),
            ("u:secret@h:x/n", "a port"),
            ("u:secret@[::1]x/n", "a port"),
            ("u:secret%@h/n", "write %25"),
            ("u:secret%+1@h/n", "write %25"),
            ("u:secret%00@h/n", "control characters"),
            ("u:secret@h/n?sslmode=prefer", "sslmode=require"),
            ("u:secret@h/n?sslmode=disable", "in clear"),
            ("u:secret@10.0.0.1/n?sslmode=disable", "in clear"),
            (
                "u:secret@localhost.example.com/n?sslmode=disable",
                "in clear",
            ),
            ("u:secret@%2Frun/n?sslmode=require", "Unix socket"),
            ("u:secret@h/n?user=secret", "not known"),
        ] {
            let fault = parse(text).unwrap_err();
            assert!(
                fault.contains(part) && fault.contains(';'),
                "{text}: {fault}"
            );
            assert!(!fault.contains("secret"), "{text}: {fault}");
        }
    }
}
