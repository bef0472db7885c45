//! The config file: what is taken is taken the same way twice, and every fault names a line that the file has, says
//! what to do, and fits on one line itself.

use std::path::PathBuf;

use keygate::store::config::parse::{Overrides, load};
use tempfile::TempDir;

use super::{Target, assert_helpful, bytes_of};

/// See the module.
pub struct ConfigFile {
    file: PathBuf,
    _folder: TempDir,
}

impl Default for ConfigFile {
    fn default() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self {
            file: folder.path().join("keygate.toml"),
            _folder: folder,
        }
    }
}

impl Target for ConfigFile {
    const NAME: &'static str = "config";
    const FRAGMENTS: &'static [&'static str] = &[
        "\n",
        "\r\n",
        "\r",
        "\"",
        "'",
        "\"\"\"",
        "'''",
        "=",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        ",",
        ".",
        "#",
        " = ",
        " ",
        "\t",
        "\0",
        "\u{feff}",
        "listen",
        "[tls]\n",
        "[keys]\n",
        "[admin]\n",
        "[client_address]\n",
        "[limits]\n",
        "[timeouts]\n",
        "[log]\n",
        "[[upstreams]]\n",
        "stateful = true\n",
        "client_fields = \"pass\"\n",
        "unknown_fields = \"refuse\"\n",
        "aliases = { \"a\" = \"b\" }\n",
        "inject = { cache_salt = \"key\" }\n",
        "[upstreams]\n",
        "name = \"a\"\n",
        "url = \"http://127.0.0.1:1\"\n",
        "url = [\"http://a:1\", \"https://b\"]\n",
        "models = [\"m\"]\n",
        "models = []\n",
        "workers = 2\n",
        "watch = true\n",
        "max_drop_percent = 101\n",
        "socket = \"s\"\n",
        "from = \"x-forwarded-for\"\n",
        "trusted_proxies = [\"10.0.0.0/8\"]\n",
        "request_body = \"1KiB\"\n",
        "drain = \"1s\"\n",
        "format = \"json\"\n",
        "cors_origins = [\"https://a.example\"]\n",
        "public_url = \"https://a.example\"\n",
        "unknown = 1\n",
        "certificate = \"tls.crt\"\n",
        "hosts = [\"a\"]\n",
        "0",
        "-1",
        "1e9",
        "0x10",
        "1_000",
        "99999999999999999999",
        "true",
        "inf",
        "nan",
        "1979-05-27",
        "300s",
        "5m",
        "1GiB",
        "[::]:8080",
        "127.0.0.1:0",
        "unix:/tmp/x",
        "http://user@host",
        "/path?query",
        "\u{e4}",
        "\\u0000",
        "\\",
        "%",
        "::ffff:1.2.3.4/96",
    ];
    const WORDS: &'static [&'static str] = &["taken", "faulty"];

    fn examples(&self) -> Vec<Vec<u8>> {
        bytes_of(&[
            "listen = \"127.0.0.1:8080\"\nworkers = 1\n[keys]\nfile = \"keys.jsonl\"\n[admin]\nsocket = \"keygate.sock\"\n[[upstreams]]\nname = \"a\"\nurl = \"http://127.0.0.1:8000\"\nmodels = [\"good\"]\n",
            "listen = [\"[::]:8080\", \"unix:/tmp/k\"]\npublic_url = \"https://ai.example.com\"\ncors_origins = [\"https://a.example\"]\n[admin]\nlisten = \"127.0.0.1:9180\"\nhosts = [\"h\"]\n[client_address]\ntrusted_proxies = [\"10.0.0.0/8\"]\nfrom = \"x-forwarded-for\"\n[limits]\nrequest_body = \"32MiB\"\nheaders = \"64KiB\"\nconnections = 10\n[timeouts]\ndrain = \"300s\"\n[log]\nformat = \"json\"\n[[upstreams]]\nname = \"b\"\nurl = [\"http://a:1\", \"http://b:2\"]\n[[upstreams]]\nname = \"c\"\nurl = \"http://c\"\nmodels = [\"m\"]\n",
            "[[upstreams]]\r\nname = \"a\"\r\nurl = \"http://127.0.0.1:8000\"\r\n",
            "",
        ])
    }

    fn check(&self, input: &[u8]) -> &'static str {
        std::fs::write(&self.file, input).expect("the file is written");
        let first = load(&self.file, &Overrides::default());
        assert_eq!(first, load(&self.file, &Overrides::default()));
        match first {
            Ok(config) => {
                assert!(std::str::from_utf8(input).is_ok(), "taken, and not UTF-8");
                assert!(!config.upstreams.is_empty(), "nobody to forward to");
                for warning in config.warnings() {
                    assert_helpful(&warning.message);
                }
                "taken"
            }
            Err(faults) => {
                assert!(!faults.is_empty(), "refused without a word");
                let lines = 1 + input.iter().filter(|byte| **byte == b'\n').count();
                for fault in &faults {
                    assert_helpful(&fault.to_string());
                    assert!(fault.message.contains("; "), "no remedy: {fault}");
                    assert!(
                        fault.file != self.file
                            || (1..=lines).contains(&fault.line)
                            || fault.line == 0,
                        "no such line: {fault}"
                    );
                }
                "faulty"
            }
        }
    }
}
