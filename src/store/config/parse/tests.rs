//! A config file in, a config or its faults out.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::store::config::restart::restart_needed;
use crate::store::config::{ReplicaUrl, TlsFiles, tree};

/// Appended where a test is about something else; behind it nothing is at the root any more.
const UPSTREAM: &str = "\n[[upstreams]]\nname = \"llama\"\nurl = \"http://127.0.0.1:8000\"\n";

fn environment(name: &str) -> Option<OsString> {
    match name {
        "KEY" => Some("  sk-upstream \n".into()),
        "EMPTY" => Some(" ".into()),
        "TWO_WORDS" => Some("sk-one sk-two".into()),
        _ => None,
    }
}

/// A folder with a config file, and the files that one may name.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn read(&self, text: impl AsRef<[u8]>, overrides: &Overrides) -> ParsedConfig {
        read_with(
            Some(&self.put("keygate.toml", text)),
            overrides,
            &environment,
        )
    }
}

fn config_of(text: &str) -> Config {
    let reading = Folder::new().read(text, &Overrides::default());
    reading
        .config
        .unwrap_or_else(|faults| panic!("{faults:#?}"))
}

fn faults_of(text: impl AsRef<[u8]>) -> Vec<Fault> {
    let reading = Folder::new().read(text, &Overrides::default());
    reading.config.expect_err("a config came out")
}

/// The text, with an upstream behind it, has this one fault; its message has a remedy and this part.
#[track_caller]
fn assert_fault(text: &str, line: usize, field: &str, part: &str) {
    assert_bare_fault(&format!("{text}{UPSTREAM}"), line, field, part);
}

#[track_caller]
fn assert_bare_fault(text: &str, line: usize, field: &str, part: &str) {
    let faults = faults_of(text);
    assert_eq!(faults.len(), 1, "{text}\n{faults:#?}");
    assert_one(&faults[0], line, field, part);
}

#[track_caller]
fn assert_one(fault: &Fault, line: usize, field: &str, part: &str) {
    assert_eq!((fault.line, fault.field.as_str()), (line, field), "{fault}");
    assert!(fault.message.contains(part), "{fault}");
    assert!(fault.message.contains("; "), "no remedy: {fault}");
}

#[test]
fn what_the_file_leaves_out_is_at_its_default() {
    let folder = Folder::new();
    let config = folder.read(UPSTREAM, &Overrides::default()).config.unwrap();
    let path = folder.0.path();
    let expected = Config {
        file: Some(path.join("keygate.toml")),
        listen: vec![Listen::Tcp("[::]:8080".parse().unwrap())],
        public_url: None,
        workers: 0,
        public_health: false,
        cors_origins: vec![],
        tls: None,
        keys: KeysConfig {
            file: path.join("keys.jsonl"),
            named: false,
            watch: false,
            max_drop_percent: 50,
        },
        admin: AdminConfig {
            socket: path.join("keygate.sock"),
            listen: None,
            token_file: path.join("admin.token"),
            hosts: vec![],
            tls: false,
            open_metrics: false,
        },
        client_address: ClientAddressSource::Peer,
        limits: LimitsConfig {
            request_body: 33_554_432,
            buffered_bodies: 1_073_741_824,
            headers: 65_536,
            connections: 65_536,
        },
        timeouts: Timeouts {
            header_read: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            tls_handshake: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            client_write: Duration::from_secs(60),
            upstream_connect: Duration::from_secs(5),
            upstream_first_byte: Duration::from_secs(600),
            stream_idle: Duration::from_secs(600),
            upstream_keep_alive: Duration::from_secs(4),
            drain: Duration::from_secs(300),
            drain_delay: Duration::ZERO,
        },
        log_format: None,
        upstreams: vec![UpstreamConfig {
            name: "llama".to_owned(),
            replicas: vec![ReplicaUrl {
                https: false,
                host: "127.0.0.1".to_owned(),
                port: 8000,
            }],
            models: None,
            credential: None,
            ca_file: None,
        }],
    };
    assert_eq!(config, expected);
}

#[test]
fn every_field_can_be_set() {
    let folder = Folder::new();
    folder.put("upstream.key", "sk-from-file\n");
    let tls = Tls {
        first: certificate(&folder, "tls"),
        more: vec![certificate(&folder, "one"), certificate(&folder, "two")],
        client_ca: Some(folder.put(
            "clients.pem",
            std::fs::read(folder.0.path().join("one.crt")).unwrap(),
        )),
    };
    let text = r#"
        listen = ["127.0.0.1:8080", "[::1]:8080", "unix:run/http.sock"]
        public_url = "https://AI.example.com:443"
        workers = 3
        public_health = true
        cors_origins = ["https://app.example.com", "tauri://localhost", "http://[::1]:3000"]
        [tls]
        certificate = "tls.crt"
        private_key = "tls.key"
        client_ca = "clients.pem"
        [[tls.more]]
        certificate = "one.crt"
        private_key = "one.key"
        [[tls.more]]
        certificate = "two.crt"
        private_key = "two.key"
        [keys]
        file = "/srv/keys.jsonl"
        watch = true
        max_drop_percent = 0
        [admin]
        socket = "run/admin.sock"
        listen = "127.0.0.1:9180"
        token_file = "token"
        hosts = ["Admin.example.com", "[::1]", "192.0.2.7"]
        tls = true
        open_metrics = true
        [client_address]
        trusted_proxies = ["10.1.2.3/8", "2001:db8::1/32", "192.0.2.7", "::1"]
        from = "x-forwarded-for"
        [limits]
        request_body = 1048576
        buffered_bodies = "2MB"
        headers = "8KiB"
        connections = 1
        [timeouts]
        header_read = "250ms"
        body_idle = "2s"
        tls_handshake = "3s"
        keep_alive = "4m"
        client_write = "5s"
        upstream_connect = "6s"
        upstream_first_byte = "1h"
        stream_idle = "168h"
        upstream_keep_alive = "9s"
        drain = "0s"
        drain_delay = "11s"
        [log]
        format = "json"
        [[upstreams]]
        name = "llama"
        url = ["http://10.0.0.1:8000", "HTTPS://LLM.example.com", "http://[2001:db8::1]"]
        models = ["llama-3.3-70b", "org/Qwen 3"]
        api_key_env = "KEY"
        ca_file = "tls.crt"
        [[upstreams]]
        name = "embed"
        url = "http://embed_server:80"
        api_key_file = "upstream.key"
    "#;
    let config = folder.read(text, &Overrides::default()).config;
    let config = config.unwrap_or_else(|faults| panic!("{faults:#?}"));
    let path = folder.0.path();
    assert_eq!(
        config.listen,
        [
            Listen::Tcp("127.0.0.1:8080".parse().unwrap()),
            Listen::Tcp("[::1]:8080".parse().unwrap()),
            Listen::Unix(path.join("run/http.sock")),
        ]
    );
    assert_eq!(config.public_url.as_deref(), Some("https://ai.example.com"));
    assert_eq!((config.workers, config.public_health), (3, true));
    assert_eq!(config.cors_origins.len(), 3);
    assert_eq!(config.tls, Some(tls));
    assert_eq!(
        config.keys,
        KeysConfig {
            file: "/srv/keys.jsonl".into(),
            named: true,
            watch: true,
            max_drop_percent: 0
        }
    );
    assert_eq!(
        config.admin,
        AdminConfig {
            socket: path.join("run/admin.sock"),
            listen: Some("127.0.0.1:9180".parse().unwrap()),
            token_file: path.join("token"),
            hosts: vec!["admin.example.com".into(), "::1".into(), "192.0.2.7".into()],
            tls: true,
            open_metrics: true,
        }
    );
    let trusted_proxies = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32", "::1/128"];
    assert_eq!(
        config.client_address,
        ClientAddressSource::XForwardedFor {
            trusted_proxies: trusted_proxies.map(|text| text.parse().unwrap()).to_vec()
        }
    );
    assert_eq!(
        config.limits,
        LimitsConfig {
            request_body: 1 << 20,
            buffered_bodies: 2_000_000,
            headers: 8192,
            connections: 1
        }
    );
    assert_eq!(config.timeouts.header_read, Duration::from_millis(250));
    assert_eq!(config.timeouts.body_idle, Duration::from_secs(2));
    assert_eq!(config.timeouts.tls_handshake, Duration::from_secs(3));
    assert_eq!(config.timeouts.keep_alive, Duration::from_secs(240));
    assert_eq!(config.timeouts.client_write, Duration::from_secs(5));
    assert_eq!(config.timeouts.upstream_connect, Duration::from_secs(6));
    assert_eq!(
        config.timeouts.upstream_first_byte,
        Duration::from_secs(3600)
    );
    assert_eq!(config.timeouts.stream_idle, Duration::from_secs(604_800));
    assert_eq!(config.timeouts.upstream_keep_alive, Duration::from_secs(9));
    assert_eq!(config.timeouts.drain, Duration::ZERO);
    assert_eq!(config.timeouts.drain_delay, Duration::from_secs(11));
    assert_eq!(config.log_format, Some(LogFormat::Json));
    let [llama, embed] = &config.upstreams[..] else {
        panic!("{:?}", config.upstreams)
    };
    let urls: Vec<String> = llama.replicas.iter().map(ToString::to_string).collect();
    let expected = [
        "http://10.0.0.1:8000",
        "https://llm.example.com",
        "http://[2001:db8::1]",
    ];
    assert_eq!(urls, expected);
    let models = ["llama-3.3-70b".to_owned(), "org/Qwen 3".to_owned()];
    assert_eq!(llama.models.as_deref(), Some(&models[..]));
    assert_eq!(llama.credential.as_ref().unwrap().reveal(), "sk-upstream");
    assert_eq!(llama.ca_file, Some(path.join("tls.crt")));
    assert_eq!(embed.credential.as_ref().unwrap().reveal(), "sk-from-file");
    assert_eq!(embed.replicas[0].host, "embed_server");
}

#[test]
fn sections_may_be_written_inline_or_dotted() {
    let config = config_of(
        "keys.max_drop_percent = 7\nlimits = { connections = 9 }\n\
         upstreams = [{ name = \"a\", url = \"http://a:1\" }, { name = \"b\", url = \"http://b:1\" }]\n",
    );
    assert_eq!(config.keys.max_drop_percent, 7);
    assert_eq!(config.limits.connections, 9);
    assert_eq!(config.upstreams.len(), 2);
    assert_bare_fault(
        "upstreams = [\n{ name = \"a\", url = \"http://a:1\" },\n{ name = \"b\" },\n]\n",
        3,
        "upstreams[1].url",
        "is missing",
    );
    assert_fault(
        "keys.max_drop_percent = 101\n",
        1,
        "keys.max_drop_percent",
        "0 to 100",
    );
}

#[test]
fn all_faults_are_named_at_once_in_the_order_of_their_lines() {
    let faults = faults_of(
        "listen = 8080\n\
         worker = 2\n\
         public_health = \"yes\"\n\
         \n\
         [keys]\n\
         max_drop_percent = 101\n\
         [limits]\n\
         headers = \"1KiB\"\n\
         [timeouts]\n\
         drain = 5\n\
         [[upstreams]]\n\
         url = \"http://127.0.0.1:8000/v1\"\n\
         models = [\n\
           \"a\",\n\
           \"\",\n\
         ]\n\
         [surprise]\n\
         a = 1\n",
    );
    let found: Vec<_> = faults
        .iter()
        .map(|fault| (fault.line, fault.field.as_str()))
        .collect();
    let expected = [
        (1, "listen"),
        (2, "worker"),
        (3, "public_health"),
        (6, "keys.max_drop_percent"),
        (8, "limits.headers"),
        (10, "timeouts.drain"),
        (11, "upstreams[0].name"),
        (12, "upstreams[0].url"),
        (15, "upstreams[0].models[1]"),
        (17, "surprise"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_fault_prints_as_file_line_field_what_and_remedy() {
    let folder = Folder::new();
    let file = folder.put("keygate.toml", format!("\nworker = 2\n{UPSTREAM}"));
    let faults = load(&file, &Overrides::default()).unwrap_err();
    let file = file.display();
    assert_eq!(
        faults[0].to_string(),
        format!("{file}:2: worker: is not a field of this section; did you mean workers?")
    );
}

#[test]
fn an_unknown_field_is_a_fault_that_names_the_nearest_known_one() {
    assert_fault(
        "[log]\nformt = \"json\"\n",
        2,
        "log.formt",
        "did you mean format?",
    );
    assert_fault(
        "[keys]\nmax_drop = 1\n",
        2,
        "keys.max_drop",
        "mean max_drop_percent?",
    );
    assert_fault(
        "[keys]\nzebra = 1\n",
        2,
        "keys.zebra",
        "use one of file, watch",
    );
    let text = format!("{UPSTREAM}api_key = \"sk-secret\"\n");
    let faults = faults_of(&text);
    assert_one(&faults[0], 5, "upstreams[0].api_key", "mean api_key_env?");
    assert!(!faults[0].message.contains("secret"));
}

#[test]
fn an_unknown_field_with_control_characters_is_escaped() {
    assert_fault(
        "\"a\\n\\u001b[31m\" = 1\n",
        1,
        "\"a\\n\\u{1b}[31m\"",
        "not a field",
    );
    assert_fault("\"\" = 1\n", 1, "\"\"", "not a field");
}

#[test]
fn a_wrong_type_is_a_fault_that_says_what_stands_there() {
    assert_fault(
        "public_url = 1\n",
        1,
        "public_url",
        "is an integer; write a text",
    );
    assert_fault(
        "public_health = 1\n",
        1,
        "public_health",
        "is an integer; write true or false",
    );
    assert_fault(
        "workers = \"2\"\n",
        1,
        "workers",
        "is a string; write a whole number",
    );
    assert_fault(
        "workers = 2.5\n",
        1,
        "workers",
        "is a float; write a whole number",
    );
    assert_fault(
        "cors_origins = \"https://a\"\n",
        1,
        "cors_origins",
        "is a string; write a list",
    );
    assert_fault(
        "cors_origins = [1]\n",
        1,
        "cors_origins[0]",
        "is an integer; write a text",
    );
    assert_fault(
        "keys = \"keys.jsonl\"\n",
        1,
        "keys",
        "is a string; write [keys]",
    );
    assert_fault(
        "[limits]\nrequest_body = true\n",
        2,
        "limits.request_body",
        "is a boolean",
    );
    assert_fault(
        "[timeouts]\ndrain = 5\n",
        2,
        "timeouts.drain",
        "is an integer",
    );
    assert_fault("listen = 8080\n", 1, "listen", "is an integer");
    assert_fault("[[tls]]\n", 1, "tls", "is an array of tables; write [tls]");
    assert_bare_fault(
        "[upstreams]\nname = \"a\"\n",
        1,
        "upstreams",
        "write [[upstreams]]",
    );
    assert_bare_fault(
        "upstreams = [1]\n",
        1,
        "upstreams[0]",
        "write [[upstreams]]",
    );
}

#[test]
fn a_number_out_of_bounds_is_a_fault() {
    assert_fault("workers = -1\n", 1, "workers", "0 to 1024");
    assert_fault("workers = 1025\n", 1, "workers", "0 to 1024");
    assert_fault(
        "[keys]\nmax_drop_percent = -1\n",
        2,
        "keys.max_drop_percent",
        "0 to 100",
    );
    assert_fault(
        "[limits]\nconnections = 0\n",
        2,
        "limits.connections",
        "out of bounds",
    );
}

#[test]
fn broken_toml_is_one_fault_with_its_line() {
    for (text, line) in [
        ("workers = 1\nlisten = \n", 2),
        ("a\n", 1),
        ("[keys\n", 1),
        ("workers = 1\nworkers = 2\n", 2),
        ("[log]\n\n[keys]\n[log]\n", 4),
        ("listen = \"[::]:8080\n", 1),
        ("listen = [\n\"a\"\n\"b\"\n]\n", 3),
        ("workers = 1\r\nlisten = \r\n", 2),
    ] {
        assert_bare_fault(text, line, "", "is not TOML");
    }
}

#[test]
fn a_file_that_is_not_utf8_is_one_fault_with_its_line() {
    let faults = faults_of(b"workers = 1\npublic_url = \"\xff\"\n");
    assert_eq!(faults.len(), 1);
    assert_one(&faults[0], 2, "", "not UTF-8");
}

#[test]
fn deep_nesting_is_a_fault_and_not_the_end_of_the_process() {
    let text = format!("listen = {}1{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let faults = faults_of(&text);
    assert_one(&faults[0], 1, "", "is not TOML");
}

#[test]
fn a_file_that_cannot_be_read_is_one_fault_of_the_whole_file() {
    let folder = Folder::new();
    for path in [folder.0.path().join("none.toml"), folder.0.path().into()] {
        let faults = load(&path, &Overrides::default()).unwrap_err();
        assert_eq!(faults.len(), 1);
        assert_one(&faults[0], 0, "", "cannot be read");
        assert_eq!(faults[0].file, path);
    }
}

#[test]
fn an_endless_file_is_refused() {
    let faults = load(Path::new("/dev/zero"), &Overrides::default()).unwrap_err();
    assert_one(&faults[0], 0, "", "is larger than");
}

#[test]
fn a_file_without_an_upstream_is_a_fault() {
    assert_bare_fault("", 0, "upstreams", "names no upstream");
    assert_bare_fault("\nupstreams = []\n", 2, "upstreams", "names no upstream");
}

#[test]
fn an_upstream_needs_a_name_and_a_url() {
    assert_bare_fault(
        "\n[[upstreams]]\nname = \"a\"\n",
        2,
        "upstreams[0].url",
        "is missing",
    );
    let text = "\n[[upstreams]]\nurl = \"http://a\"\n";
    assert_bare_fault(text, 2, "upstreams[0].name", "is missing");
    for (url, part) in [("[]", "empty list"), ("\"\"", "no scheme")] {
        let text = format!("[[upstreams]]\nname = \"a\"\nurl = {url}\n");
        assert_bare_fault(&text, 3, "upstreams[0].url", part);
    }
    for (name, part) in [("", "is empty"), (" ", "is empty"), ("a\\nb", "control")] {
        let text = format!("[[upstreams]]\nname = \"{name}\"\nurl = \"http://a\"\n");
        assert_bare_fault(&text, 2, "upstreams[0].name", part);
    }
}

#[test]
fn an_upstream_url_is_scheme_and_authority_only() {
    for (url, part) in [
        ("http://a:8000/", "write \"http://a:8000\""),
        ("http://a:8000/v1", "write \"http://a:8000\""),
        ("https://A/v1/?x#y", "write \"https://a\""),
        ("http://a?x=1", "write \"http://a\""),
        ("http://a#x", "write \"http://a\""),
        ("http://user:secret@a", "user name or a password"),
        ("http://secret@a/v1", "user name or a password"),
        ("ftp://a", "write http:// or https://"),
        ("unix:/run/a", "no scheme"),
        ("127.0.0.1:8000", "no scheme"),
        ("a:8000", "no scheme"),
        ("http://", "not a host name"),
        ("http://:8000", "not a host name"),
        ("http://a b", "not a host name"),
        ("http://-a", "not a host name"),
        ("http://a..b", "not a host name"),
        ("http://bücher.example", "xn--"),
        ("http://127.1", "not a host name"),
        ("http://256.0.0.1", "not a host name"),
        ("http://2001:db8::1", "brackets"),
        ("http://[2001:db8::1", "not a host name"),
        ("http://[2001:db8::1]8000", "not a host name"),
        ("http://[fe80::1%25eth0]:1", "not a host name"),
        ("http://a:", "not a port"),
        ("http://a:x", "not a port"),
        ("http://a:+80", "not a port"),
        ("http://a:65536", "not a port"),
        ("http://a:0", "port 0"),
    ] {
        let text = format!("[[upstreams]]\nname = \"a\"\nurl = \"{url}\"\n");
        assert_bare_fault(&text, 3, "upstreams[0].url", part);
        assert!(!faults_of(&text)[0].message.contains("secret"), "{url}");
    }
}

#[test]
fn two_upstreams_of_one_name_are_a_fault_at_the_second() {
    let text = format!("{UPSTREAM}{UPSTREAM}");
    assert_bare_fault(&text, 7, "upstreams[1].name", "the upstream of line 3 too");
}

#[test]
fn one_replica_named_twice_is_a_fault() {
    let text = "[[upstreams]]\nname = \"a\"\nurl = [\"http://a\",\n\"http://A:80\"]\n";
    assert_bare_fault(text, 4, "upstreams[0].url[1]", "names http://a again");
}

#[test]
fn a_model_named_twice_is_a_fault_at_the_second_place() {
    let text = "[[upstreams]]\nname = \"a\"\nurl = \"http://a\"\nmodels = [\"m\"]\n\
                [[upstreams]]\nname = \"b\"\nurl = \"http://b\"\nmodels = [\n\"n\",\n\"m\"]\n";
    assert_bare_fault(
        text,
        10,
        "upstreams[1].models[1]",
        "\"m\" is served by line 4",
    );
    let text = format!("{UPSTREAM}models = [\"m\", \"M\", \"m\"]\n");
    assert_bare_fault(&text, 5, "upstreams[0].models[2]", "name each model once");
}

#[test]
fn an_empty_list_of_models_is_a_fault() {
    let text = format!("{UPSTREAM}models = []\n");
    assert_bare_fault(&text, 5, "upstreams[0].models", "leave the field out");
}

#[test]
fn an_upstream_credential_must_be_there_and_never_shows() {
    let folder = Folder::new();
    folder.put("empty.key", "\n");
    let cases = [
        ("api_key_env = \"sk-secret\"", "api_key_env", "not set"),
        ("api_key_env = \"EMPTY\"", "api_key_env", "leads to nothing"),
        (
            "api_key_env = \"TWO_WORDS\"",
            "api_key_env",
            "visible ASCII",
        ),
        ("api_key_env = \"\"", "api_key_env", "not set"),
        (
            "api_key_file = \"none.key\"",
            "api_key_file",
            "cannot be read",
        ),
        (
            "api_key_file = \"empty.key\"",
            "api_key_file",
            "leads to nothing",
        ),
        (
            "api_key_env = \"KEY\"\napi_key_file = \"keygate.toml\"",
            "api_key_file",
            "keep one of the two",
        ),
    ];
    for (text, field, part) in cases {
        let text = format!("{UPSTREAM}{text}\n");
        let faults = folder.read(&text, &Overrides::default()).config;
        let faults = faults.unwrap_err();
        let line = if part.starts_with("keep") { 6 } else { 5 };
        assert_one(&faults[0], line, &format!("upstreams[0].{field}"), part);
        for fault in faults {
            assert!(!fault.message.contains("sk-"), "{fault}");
        }
    }
    let config = config_of(&format!("{UPSTREAM}api_key_env = \"KEY\"\n"));
    assert!(!format!("{config:?}").contains("sk-"));
}

#[test]
fn a_ca_file_must_hold_certificates() {
    let folder = Folder::new();
    folder.put("text.pem", "no certificate\n");
    folder.put(
        "broken.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    for (name, part) in [
        ("none.pem", "cannot be read"),
        ("text.pem", "holds no certificate"),
        ("broken.pem", "cannot be used"),
    ] {
        let text = format!("{UPSTREAM}ca_file = \"{name}\"\n");
        let faults = folder.read(&text, &Overrides::default()).config;
        let faults = faults.unwrap_err();
        assert_eq!(faults.len(), 1);
        assert_one(&faults[0], 5, "upstreams[0].ca_file", part);
    }
}

/// Writes NAME.crt and NAME.key.
fn certificate(folder: &Folder, name: &str) -> TlsFiles {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    TlsFiles {
        certificate: folder.put(&format!("{name}.crt"), made.cert.pem()),
        private_key: folder.put(&format!("{name}.key"), made.signing_key.serialize_pem()),
    }
}

#[test]
fn tls_needs_a_certificate_and_the_private_key_that_belongs_to_it() {
    let folder = Folder::new();
    certificate(&folder, "one");
    certificate(&folder, "two");
    for (text, line, field, part) in [
        (
            "[tls]\ncertificate = \"one.crt\"\n",
            1,
            "tls.private_key",
            "is missing",
        ),
        (
            "[tls]\nprivate_key = \"one.key\"\n",
            1,
            "tls.certificate",
            "is missing",
        ),
        (
            "[tls]\ncertificate = \"none\"\nprivate_key = \"one.key\"\n",
            2,
            "tls.certificate",
            "cannot be read",
        ),
        (
            "[tls]\ncertificate = \"one.crt\"\nprivate_key = \"one.crt\"\n",
            3,
            "tls.private_key",
            "holds no private key",
        ),
        (
            "[tls]\ncertificate = \"one.key\"\nprivate_key = \"one.key\"\n",
            2,
            "tls.certificate",
            "holds no certificate",
        ),
        (
            "[tls]\ncertificate = \"one.crt\"\nprivate_key = \"two.key\"\n",
            3,
            "tls.private_key",
            "cannot be used with the certificate",
        ),
        (
            "[tls]\ncertificate = \"one.crt\"\nprivate_key = \"one.key\"\n[[tls.more]]\nprivate_key = \"two.key\"\n",
            4,
            "tls.more[0].certificate",
            "is missing; add certificate = \"FILE.pem\" to this [[tls.more]]",
        ),
        (
            "[tls]\ncertificate = \"one.crt\"\nprivate_key = \"one.key\"\n\
             [[tls.more]]\ncertificate = \"two.crt\"\nprivate_key = \"one.key\"\n",
            6,
            "tls.more[0].private_key",
            "cannot be used with the certificate",
        ),
        (
            "[tls]\ncertificate = \"one.crt\"\nprivate_key = \"one.key\"\nclient_ca = \"one.key\"\n",
            4,
            "tls.client_ca",
            "holds no certificate",
        ),
        (
            "[tls]\ncertificate = \"one.crt\"\nprivate_key = \"one.key\"\nmore = \"two.crt\"\n",
            4,
            "tls.more",
            "write [[tls.more]]",
        ),
    ] {
        let text = format!("{text}{UPSTREAM}");
        let faults = folder.read(&text, &Overrides::default()).config;
        let faults = faults.unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_one(&faults[0], line, field, part);
    }
}

#[test]
fn an_empty_tls_section_is_a_fault_and_not_plain_http() {
    let faults = faults_of(format!("[tls]\n{UPSTREAM}"));
    let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(fields, ["tls.certificate", "tls.private_key"]);
}

#[test]
fn a_listen_address_has_an_address_and_a_port() {
    for (address, part) in [
        (":8080", "write \"[::]:8080\""),
        ("8080", "write \"[::]:8080\""),
        ("*:8080", "write \"[::]:8080\""),
        ("127.0.0.1", "write it like \"127.0.0.1:8080\""),
        ("::1", "write it like \"[::1]:8080\""),
        ("[::1]", "write it like \"[::1]:8080\""),
        ("localhost:8080", "names are not taken"),
        ("127.0.0.1:65536", "not an address and port"),
        ("127.0.0.1:80a", "not an address and port"),
        ("http://127.0.0.1:80", "not an address and port"),
        ("", "not an address and port"),
        ("unix:", "not a path"),
    ] {
        assert_fault(&format!("listen = \"{address}\"\n"), 1, "listen", part);
        if !address.is_empty() {
            let text = format!("[admin]\nlisten = \"{address}\"\n");
            assert_eq!(faults_of(format!("{text}{UPSTREAM}")).len(), 1, "{address}");
        }
    }
    assert_fault("listen = []\n", 1, "listen", "empty list");
    let text = "listen = [\"[::1]:1\",\n\"x\"]\n";
    assert_fault(text, 2, "listen[1]", "not an address");
}

#[test]
fn a_socket_path_is_at_most_107_bytes_long() {
    let fits = format!("/{}", "x".repeat(106));
    let config = config_of(&format!(
        "listen = \"unix:{fits}\"\n[admin]\nsocket = \"/{}\"{UPSTREAM}",
        "y".repeat(106)
    ));
    assert_eq!(config.listen, [Listen::Unix(fits.into())]);
    let long = format!("/{}", "x".repeat(107));
    assert_fault(
        &format!("listen = \"unix:{long}\"\n"),
        1,
        "listen",
        "108 bytes",
    );
    let text = format!("[admin]\nsocket = \"{long}\"\n");
    assert_fault(&text, 2, "admin.socket", "choose a shorter one");
    let overrides = Overrides {
        socket: Some(long.into()),
        ..Overrides::default()
    };
    let faults = Folder::new().read(UPSTREAM, &overrides).config.unwrap_err();
    assert_one(&faults[0], 0, "--socket", "108 bytes");
}

#[test]
fn two_listeners_cannot_have_one_place() {
    for (first, second) in [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("[::]:80", "0.0.0.0:80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("[::]:80", "127.0.0.1:80"),
        ("[::1]:80", "[::]:80"),
        ("unix:/a", "unix:/a"),
    ] {
        let text = format!("listen = [\"{first}\",\n\"{second}\"]\n");
        assert_fault(&text, 2, "listen[1]", "takes the place of");
        let text = match second.strip_prefix("unix:") {
            None => format!("listen = \"{first}\"\n[admin]\nlisten = \"{second}\"\n"),
            Some(path) => format!("listen = \"{first}\"\n[admin]\nsocket = \"{path}\"\n"),
        };
        assert_eq!(faults_of(format!("{text}{UPSTREAM}"))[0].line, 3);
    }
    for (first, second) in [
        ("127.0.0.1:80", "127.0.0.1:81"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("0.0.0.0:80", "[::1]:80"),
        ("127.0.0.1:0", "127.0.0.1:0"),
    ] {
        config_of(&format!("listen = [\"{first}\", \"{second}\"]{UPSTREAM}"));
    }
}

#[test]
fn a_public_url_has_neither_path_nor_another_scheme() {
    for (url, part) in [
        (
            "https://ai.example.com/",
            "write \"https://ai.example.com\"",
        ),
        (
            "https://ai.example.com/v1",
            "write \"https://ai.example.com\"",
        ),
        ("ai.example.com", "no scheme"),
        ("ws://ai.example.com", "write http:// or https://"),
        ("", "no scheme"),
    ] {
        assert_fault(&format!("public_url = \"{url}\"\n"), 1, "public_url", part);
    }
}

#[test]
fn a_cors_origin_is_exactly_what_browsers_send() {
    for (origin, part) in [
        ("*", "list the origins"),
        ("null", "not an origin"),
        ("app.example.com", "not an origin"),
        ("https://*.example.com", "not scheme, host and port alone"),
        (
            "https://app.example.com/",
            "not scheme, host and port alone",
        ),
        (
            "https://app.example.com/x",
            "not scheme, host and port alone",
        ),
        (
            "https://u@app.example.com",
            "not scheme, host and port alone",
        ),
        (
            "1https://app.example.com",
            "not scheme, host and port alone",
        ),
        ("HTTPS://app.example.com", "not scheme, host and port alone"),
        (
            "https://App.example.com",
            "write \"https://app.example.com\"",
        ),
        (
            "https://app.example.com:443",
            "write \"https://app.example.com\"",
        ),
        (
            "http://app.example.com:80",
            "write \"http://app.example.com\"",
        ),
    ] {
        let text = format!("cors_origins = [\"{origin}\"]\n");
        assert_fault(&text, 1, "cors_origins[0]", part);
    }
}

#[test]
fn admin_hosts_are_names_without_port_or_scheme() {
    for host in ["a:80", "http://a", "a/b", "*", "", "a b", "*.example.com"] {
        let text = format!("[admin]\nhosts = [\"{host}\"]\n");
        assert_fault(&text, 2, "admin.hosts[0]", "not a host name");
    }
}

#[test]
fn admin_tls_needs_the_section_tls() {
    assert_fault(
        "[admin]\ntls = true\n",
        2,
        "admin.tls",
        "add the section [tls]",
    );
}

#[test]
fn trusted_proxies_are_networks_of_both_families() {
    for (network, part) in [
        ("10.0.0.0/33", "not a network"),
        ("10.0.0.0/08", "not a network"),
        ("010.0.0.0/8", "not a network"),
        ("10.0.0.0/", "not a network"),
        ("10/8", "not a network"),
        ("::/129", "not a network"),
        ("lb.example.com", "not a network"),
        ("::ffff:10.0.0.0/104", "write it as IPv4"),
    ] {
        let text = format!("[client_address]\ntrusted_proxies = [\"{network}\"]\n");
        assert_fault(&text, 2, "client_address.trusted_proxies[0]", part);
    }
}

#[test]
fn forwarded_addresses_need_somebody_to_believe() {
    let field = "client_address.trusted_proxies";
    let text = "[client_address]\nfrom = \"x-forwarded-for\"\n";
    assert_fault(text, 1, field, "list the load balancers");
    let text = "[client_address]\nfrom = \"x-forwarded-for\"\ntrusted_proxies = []\n";
    assert_fault(text, 3, field, "list the load balancers");
    let text = format!("[client_address]\ntrusted_proxies = [\"::1\"]\nfrom = \"peer\"{UPSTREAM}");
    assert_eq!(config_of(&text).client_address, ClientAddressSource::Peer);
}

#[test]
fn the_proxy_protocol_is_a_source_like_the_header() {
    let text = "[client_address]\ntrusted_proxies = [\"::1\"]\nfrom = \"proxy-protocol\"";
    assert_eq!(
        config_of(&format!("{text}{UPSTREAM}")).client_address,
        ClientAddressSource::ProxyProtocol {
            trusted_proxies: vec!["::1/128".parse().unwrap()]
        }
    );
    let field = "client_address.trusted_proxies";
    let text = "[client_address]\nfrom = \"proxy-protocol\"\n";
    assert_fault(text, 1, field, "list the load balancers");
    let text = "[client_address]\nfrom = \"X-Forwarded-For\"\n";
    assert_fault(
        text,
        2,
        "client_address.from",
        "write \"peer\", \"x-forwarded-for\" or \"proxy-protocol\"",
    );
}

#[test]
fn limits_leave_room_for_a_request() {
    for (text, field, part) in [
        ("headers = \"8191\"", "headers", "8KiB"),
        ("headers = \"2MiB\"", "headers", "1MiB"),
        ("request_body = 1023", "request_body", "1KiB"),
        (
            "request_body = \"2GiB\"",
            "request_body",
            "at least request_body",
        ),
        (
            "buffered_bodies = \"1MiB\"",
            "buffered_bodies",
            "at least request_body",
        ),
        ("request_body = \"32mib\"", "request_body", "not a size"),
        ("request_body = \"32 MiB\"", "request_body", "not a size"),
        ("request_body = \"MiB\"", "request_body", "not a size"),
        ("request_body = \"1.5MiB\"", "request_body", "not a size"),
        ("request_body = \"\"", "request_body", "not a size"),
        ("request_body = -1", "request_body", "not a size"),
        (
            "request_body = \"99999999999GiB\"",
            "request_body",
            "too large",
        ),
    ] {
        let field = format!("limits.{field}");
        assert_fault(&format!("[limits]\n{text}\n"), 2, &field, part);
    }
}

#[test]
fn a_duration_has_a_unit_and_an_end() {
    for (duration, part) in [
        ("10", "not a duration"),
        ("s", "not a duration"),
        ("", "not a duration"),
        ("-1s", "not a duration"),
        ("1.5s", "not a duration"),
        ("1m30s", "not a duration"),
        ("10 s", "not a duration"),
        ("1d", "not a duration"),
        ("169h", "at most \"168h\""),
        ("99999999999999999h", "at most \"168h\""),
    ] {
        let text = format!("[timeouts]\ndrain = \"{duration}\"\n");
        assert_fault(&text, 2, "timeouts.drain", part);
    }
    for name in [
        "header_read",
        "body_idle",
        "tls_handshake",
        "keep_alive",
        "client_write",
        "upstream_connect",
        "upstream_first_byte",
        "stream_idle",
        "upstream_keep_alive",
    ] {
        let text = format!("[timeouts]\n{name} = \"0s\"\n");
        assert_fault(&text, 2, &format!("timeouts.{name}"), "must not be zero");
    }
}

#[test]
fn a_log_format_is_text_or_json() {
    assert_fault(
        "[log]\nformat = \"logfmt\"\n",
        2,
        "log.format",
        "\"text\" or \"json\"",
    );
}

#[test]
fn a_path_is_not_empty() {
    assert_fault("[keys]\nfile = \"\"\n", 2, "keys.file", "name a file");
    assert_fault(
        "[admin]\ntoken_file = \"a\\u0000\"\n",
        2,
        "admin.token_file",
        "name a file",
    );
}

#[test]
fn a_long_value_is_cut_in_the_message() {
    let faults = faults_of(format!(
        "[log]\nformat = \"{}\"{UPSTREAM}",
        "x".repeat(100_000)
    ));
    assert!(faults[0].message.len() < 300);
}

#[test]
fn flags_stand_in_for_a_missing_file() {
    let overrides = Overrides {
        upstreams: vec!["http://127.0.0.1:8000".into(), "https://[::1]".into()],
        ..Overrides::default()
    };
    let config = without_file(&overrides).unwrap();
    assert_eq!(config.file, None);
    assert_eq!(config.listen, [Listen::Tcp("[::]:8080".parse().unwrap())]);
    assert_eq!(config.keys.file, Path::new("keys.jsonl"));
    assert!(!config.keys.named);
    assert_eq!(config.admin.socket, Path::new("keygate.sock"));
    assert_eq!(config.admin.token_file, Path::new("admin.token"));
    let names: Vec<_> = config
        .upstreams
        .iter()
        .map(|upstream| &upstream.name)
        .collect();
    assert_eq!(names, ["127.0.0.1-8000", "::1-443"]);
    assert_eq!(config.upstreams[0].models, None);
}

#[test]
fn no_file_and_no_upstream_is_a_fault_of_the_command_line() {
    let faults = without_file(&Overrides::default()).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert_one(&faults[0], 0, "--upstream", "add --upstream URL");
    assert_eq!(faults[0].file, Path::new("command line"));
}

#[test]
fn flags_override_the_file() {
    let text = format!("listen = \"127.0.0.1:1\"\n[keys]\nfile = \"a\"{UPSTREAM}");
    let overrides = Overrides {
        listen: vec!["127.0.0.1:2".into(), "unix:http.sock".into()],
        upstreams: vec!["http://other:1".into()],
        keys: Some("b".into()),
        socket: Some("c".into()),
        log_format: Some(LogFormat::Text),
    };
    let config = Folder::new().read(&text, &overrides).config.unwrap();
    assert_eq!(
        config.listen,
        [
            Listen::Tcp("127.0.0.1:2".parse().unwrap()),
            Listen::Unix("http.sock".into())
        ]
    );
    assert_eq!(config.upstreams.len(), 1);
    assert_eq!(config.upstreams[0].name, "other-1");
    assert_eq!((config.keys.file, config.keys.named), ("b".into(), true));
    assert_eq!(config.admin.socket, Path::new("c"));
    assert_eq!(config.log_format, Some(LogFormat::Text));
    Folder::new().read("", &overrides).config.unwrap();
}

#[test]
fn a_faulty_flag_is_named_like_a_faulty_field() {
    let overrides = Overrides {
        listen: vec![":80".into()],
        upstreams: vec![
            "http://a/v1".into(),
            "http://b:1".into(),
            "http://b:1".into(),
        ],
        ..Overrides::default()
    };
    let faults = without_file(&overrides).unwrap_err();
    let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(fields, ["--listen", "--upstream", "--upstream"]);
}

#[test]
fn a_fault_elsewhere_hides_neither_key_file_nor_socket() {
    let folder = Folder::new();
    let text = "workers = true\n[keys]\nfile = \"k\"\nwatch = 1\n[admin]\nsocket = \"s\"\nx = 1\n";
    let reading = folder.read(text, &Overrides::default());
    assert_eq!(reading.config.unwrap_err().len(), 4);
    assert_eq!(reading.keys.unwrap().file, folder.0.path().join("k"));
    assert_eq!(reading.socket, Some(folder.0.path().join("s")));
    let file = folder.put("keygate.toml", "workers = true\n");
    let keys = key_file_of(&file, &Overrides::default());
    assert_eq!(keys, Some(folder.0.path().join("keys.jsonl")));
    let file = folder.put("keygate.toml", "[keys]\nfile = 1\n");
    assert_eq!(key_file_of(&file, &Overrides::default()), None);
    let flags = Overrides {
        keys: Some("k2".into()),
        socket: Some("s2".into()),
        ..Overrides::default()
    };
    let broken = folder.put("keygate.toml", "= 1\n");
    assert_eq!(key_file_of(&broken, &flags), Some("k2".into()));
    assert_eq!(read(Some(&broken), &flags).socket, Some("s2".into()));
}

#[test]
fn a_reload_can_take_upstreams_and_certificate_each_without_the_other() {
    let folder = Folder::new();
    let tls = "[tls]\ncertificate = \"none\"\nprivate_key = \"none\"\n";
    let reading = folder.read(format!("{tls}{UPSTREAM}"), &Overrides::default());
    assert!(reading.config.is_err());
    assert_eq!(reading.upstreams.unwrap().len(), 1);
    // What a section names is known though the files hold nothing yet: each certificate is taken on its own.
    let named = TlsFiles {
        certificate: folder.0.path().join("none"),
        private_key: folder.0.path().join("none"),
    };
    assert_eq!(reading.tls.unwrap().unwrap().first, named);

    let tls = Tls {
        first: certificate(&folder, "tls"),
        more: vec![],
        client_ca: None,
    };
    let text = "[tls]\ncertificate = \"tls.crt\"\nprivate_key = \"tls.key\"\n[[upstreams]]\nname = \"a\"\n";
    let reading = folder.read(text, &Overrides::default());
    assert_eq!(reading.upstreams.unwrap_err().len(), 1);
    assert_eq!(reading.tls.unwrap(), Some(tls));

    let text = "[tls]\ncertificate = \"tls.crt\"\nprivate_key = \"tls.key\"\n[[tls.more]]\ncertificate = \"tls.crt\"\n";
    let reading = folder.read(format!("{text}{UPSTREAM}"), &Overrides::default());
    let faults = reading.tls.unwrap_err();
    assert_eq!(
        (faults.len(), &*faults[0].field),
        (1, "tls.more[0].private_key")
    );

    let reading = folder.read("= 1\n", &Overrides::default());
    assert!(reading.upstreams.is_err() && reading.tls.is_err());
}

#[test]
fn the_config_is_looked_for_where_the_flag_the_environment_or_custom_say() {
    let folder = Folder::new();
    let here = folder.put("keygate.toml", "");
    let missing = folder.0.path().join("missing.toml");
    let found = |explicit: Option<&str>, environment: Option<&str>, locations: &[&Path]| {
        find_among(
            explicit.map(Path::new),
            environment.map(OsStr::new),
            locations,
        )
    };
    assert_eq!(found(Some("a"), Some("b"), &[&here]), Some("a".into()));
    assert_eq!(found(None, Some("b"), &[&here]), Some("b".into()));
    assert_eq!(found(None, Some(""), &[&here]), Some(here.clone()));
    assert_eq!(found(None, None, &[&missing, &here]), Some(here.clone()));
    assert_eq!(found(None, None, &[&missing]), None);
    std::os::unix::fs::symlink("nowhere", &missing).unwrap();
    assert_eq!(found(None, None, &[&missing, &here]), Some(missing));
}

#[test]
fn only_what_a_reload_does_not_apply_needs_a_restart() {
    let folder = Folder::new();
    certificate(&folder, "one");
    certificate(&folder, "two");
    let config = |text: &str| {
        let reading = folder.read(text, &Overrides::default());
        reading
            .config
            .unwrap_or_else(|faults| panic!("{faults:#?}"))
    };
    let with_tls = |name: &str| {
        let text = format!("[tls]\ncertificate = \"{name}.crt\"\nprivate_key = \"{name}.key\"\n");
        config(&format!("{text}{UPSTREAM}"))
    };
    let old = config(UPSTREAM);
    assert!(restart_needed(&old, &old).is_empty());
    let new = config("[[upstreams]]\nname = \"other\"\nurl = \"http://other\"\n");
    assert!(restart_needed(&old, &new).is_empty());
    assert!(restart_needed(&with_tls("one"), &with_tls("two")).is_empty());
    assert_eq!(restart_needed(&old, &with_tls("one")), ["tls"]);
    let new = config(&format!(
        "listen = \"[::]:1\"\nworkers = 1\n[keys]\nfile = \"k\"\n[limits]\nconnections = 1\n\
         [timeouts]\ndrain = \"1s\"\n[log]\nformat = \"text\"{UPSTREAM}"
    ));
    let expected = [
        "listen",
        "workers",
        "keys.file",
        "limits.connections",
        "timeouts.drain",
        "log.format",
    ];
    assert_eq!(restart_needed(&old, &new), expected);
}

#[test]
fn a_certificate_that_no_client_will_get_is_a_warning() {
    let folder = Folder::new();
    let put = |name: &str, names: &[&str], algorithm| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let certificate = rcgen::CertificateParams::new(names).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        folder.put(&format!("{name}.crt"), certificate.pem());
        folder.put(&format!("{name}.key"), key.serialize_pem());
    };
    let ecdsa = &rcgen::PKCS_ECDSA_P256_SHA256;
    put("address", &["127.0.0.1"], ecdsa);
    put("one", &["a.example", "b.example"], ecdsa);
    put("two", &["B.example", "*.example", "c.example"], ecdsa);
    put("another_kind", &["a.example"], &rcgen::PKCS_ED25519);
    let warned = |first: &str, more: &[&str]| -> Vec<String> {
        let files =
            |name: &str| format!("certificate = \"{name}.crt\"\nprivate_key = \"{name}.key\"\n");
        let more: String = more
            .iter()
            .map(|name| format!("[[tls.more]]\n{}", files(name)))
            .collect();
        let text = format!("[tls]\n{}{more}{UPSTREAM}", files(first));
        let config = folder.read(&text, &Overrides::default()).config.unwrap();
        let shown = |fault: Fault| format!("{}: {}", fault.field, fault.message);
        config.warnings().into_iter().map(shown).collect()
    };
    assert_eq!(warned("address", &["one"]), [""; 0]);
    assert_eq!(warned("one", &["another_kind"]), [""; 0]);
    let warnings = warned("one", &["two", "address"]);
    let [lost, nameless] = &warnings[..] else {
        panic!("{warnings:?}")
    };
    assert!(
        lost.starts_with("tls.more[0].certificate: is for b.example like"),
        "{lost}"
    );
    assert!(
        nameless.starts_with("tls.more[1].certificate: holds no DNS name"),
        "{nameless}"
    );
}

#[test]
fn an_admin_listener_on_the_network_without_tls_is_a_warning() {
    let warned = |text: &str| {
        let warnings = config_of(&format!("{text}{UPSTREAM}")).warnings();
        warnings
            .into_iter()
            .map(|warning| warning.field)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        warned("[admin]\nlisten = \"0.0.0.0:9180\"\n"),
        ["admin.listen"]
    );
    assert_eq!(
        warned("[admin]\nlisten = \"[2001:db8::1]:9180\"\n"),
        ["admin.listen"]
    );
    for address in [
        "127.0.0.1:9180",
        "[::1]:9180",
        "[::ffff:127.0.0.1]:9180",
        "",
    ] {
        assert!(warned(&format!("[admin]\nlisten = \"{address}\"\n")).is_empty());
    }
}

#[test]
fn believing_everybody_is_a_warning() {
    for from in ["x-forwarded-for", "proxy-protocol"] {
        for all in ["0.0.0.0/0", "::/0"] {
            let text =
                format!("[client_address]\nfrom = \"{from}\"\ntrusted_proxies = [\"{all}\"]");
            let warnings = config_of(&format!("{text}{UPSTREAM}")).warnings();
            assert_eq!(warnings[0].field, "client_address.trusted_proxies");
        }
    }
}

#[test]
fn a_source_of_addresses_for_unix_sockets_alone_is_a_warning() {
    for from in ["x-forwarded-for", "proxy-protocol"] {
        let warned = |listen: &str| {
            let section = format!("from = \"{from}\"\ntrusted_proxies = [\"10.0.0.0/8\"]");
            let config = config_of(&format!(
                "listen = {listen}\n[client_address]\n{section}{UPSTREAM}"
            ));
            config
                .warnings()
                .into_iter()
                .map(|fault| fault.field)
                .collect::<Vec<_>>()
        };
        assert_eq!(warned("\"unix:/run/k.sock\""), ["client_address.from"]);
        assert!(warned("[\"unix:/run/k.sock\", \"127.0.0.1:80\"]").is_empty());
    }
}

#[test]
fn a_ca_file_beside_plain_http_is_a_warning() {
    let folder = Folder::new();
    certificate(&folder, "ca");
    let text = format!("{UPSTREAM}ca_file = \"ca.crt\"\n");
    let config = folder.read(&text, &Overrides::default()).config.unwrap();
    assert_eq!(config.warnings()[0].field, "upstreams[0].ca_file");
}

#[test]
fn the_url_that_users_see_is_the_public_one_or_the_first_listen_address() {
    let url = |text: &str| {
        let config = config_of(&format!("{text}{UPSTREAM}"));
        config.url(&config.listen[0])
    };
    assert_eq!(url(""), "http://localhost:8080");
    assert_eq!(url("listen = \"0.0.0.0:80\""), "http://localhost");
    assert_eq!(url("listen = \"192.0.2.7:8080\""), "http://192.0.2.7:8080");
    assert_eq!(url("listen = \"[2001:db8::1]:80\""), "http://[2001:db8::1]");
    assert_eq!(url("listen = \"unix:/a\""), "http://localhost");
    assert_eq!(
        url("public_url = \"https://ai.example.com\""),
        "https://ai.example.com"
    );
    let folder = Folder::new();
    certificate(&folder, "tls");
    let text = format!("[tls]\ncertificate = \"tls.crt\"\nprivate_key = \"tls.key\"{UPSTREAM}");
    let config = folder.read(&text, &Overrides::default()).config.unwrap();
    assert_eq!(config.url(&config.listen[0]), "https://localhost:8080");
}

#[test]
fn a_byte_order_mark_changes_no_line() {
    let text = format!("\u{feff}\nworker = 2{UPSTREAM}");
    assert_bare_fault(&text, 2, "worker", "did you mean workers?");
}

/// Files and environment are left out: only what is made of the text itself.
fn read_text(text: &str) -> Vec<Fault> {
    let faults = Faults::default();
    let reader = ConfigReader {
        faults: &faults,
        folder: Path::new("/nowhere"),
        environment: &environment,
        overrides: &Overrides::default(),
    };
    if let Some(tree) = tree::TomlDocument::parse(Path::new("f"), text.as_bytes(), &faults) {
        reader.parts(tree.root(&faults));
    }
    faults.into_sorted()
}

proptest! {
    #[test]
    fn no_text_in_any_field_makes_it_panic(
        text in r#"([a-z]{0,6}://)?[\[\]:@/.0-9a-zß\\u{1b}*-]{0,12}"#,
        field in "listen|public_url|cors_origins|admin.listen|admin.hosts|client_address.trusted_proxies\
            |limits.headers|timeouts.drain|log.format|keys.file|upstreams|tls|[a-z\"]{0,5}",
        list: bool,
    ) {
        let value = if list { format!("[{text:?}]") } else { format!("{text:?}") };
        for fault in read_text(&format!("{field} = {value}\n{UPSTREAM}")) {
            prop_assert!(fault.message.contains("; "), "no remedy: {}", fault);
            prop_assert!(!fault.to_string().chars().any(char::is_control), "{fault:?}");
        }
    }

    #[test]
    fn no_document_makes_it_panic(text in r#"([a-z]{1,8}|[=\[\]{}."'#,\n 0-9]){0,40}"#) {
        read_text(&text);
    }
}
