//! Reading a config file gives a config or its faults.

use crate::policy::key_limits::{KeyLimits, LimitKind, LimitSetting};
use std::time::Duration;

use proptest::prelude::*;

use crate::policy::field_kind::ForwardHeaders;

use super::*;
use crate::policy::body_fields::FieldRules;
use crate::store::config::restart::restart_needed;
use crate::store::config::{ReplicaUrl, TlsFiles, UsageMode, tree};

mod alerts;
mod sections;
mod sign_in;
mod upstreams;
mod usage;
mod whole;

/// A valid upstream for tests about other fields. Append it last, since fields after it belong to its section.
const UPSTREAM: &str = "\n[[upstreams]]\nname = \"llama\"\nurl = \"http://127.0.0.1:8000\"\n";

fn environment(name: &str) -> Option<OsString> {
    match name {
        "KEY" => Some("  sk-upstream \n".into()),
        "EMPTY" => Some(" ".into()),
        "TWO_WORDS" => Some("sk-one sk-two".into()),
        _ => None,
    }
}

/// A folder with a config file and the files that it names.
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

/// Asserts that the text, with an upstream appended, has exactly this fault, and that its message has a remedy and
/// contains this part.
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

/// Writes NAME.crt and NAME.key.
fn certificate(folder: &Folder, name: &str) -> TlsFiles {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    TlsFiles {
        certificate: folder.put(&format!("{name}.crt"), made.cert.pem()),
        private_key: folder.put(&format!("{name}.key"), made.signing_key.serialize_pem()),
    }
}

#[test]
fn what_the_file_leaves_out_is_at_its_default() {
    let folder = Folder::new();
    let config = folder.read(UPSTREAM, &Overrides::default()).config.unwrap();
    let path = folder.0.path();
    let expected = Config {
        audit: AuditConfig {
            keep: 400 * 86_400,
            key_file: path.join("keygate.db-audit-key"),
        },
        file: Some(path.join("keygate.toml")),
        listen: vec![Listen::Tcp("[::]:8080".parse().unwrap())],
        public_url: None,
        workers: 0,
        public_health: false,
        cors_origins: vec![],
        tls: None,
        keys: KeysConfig {
            source: KeysSource::File,
            max_stale: None,
            file: path.join("keys.jsonl"),
            named: false,
            watch: false,
            max_drop_percent: 50,
            default_limits: KeyLimits::default(),
            limits_unavailable: LimitsUnavailable::LocalShare,
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
            sse_ping: Duration::ZERO,
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
            usage: UsageMode::Ask,
            engine: None,
            forward_headers: ForwardHeaders::NONE,
            aliases: Vec::new(),
            inject: None,
            fields: FieldRules::USUAL,
        }],
        database: Some(DatabaseUrl::Sqlite(path.join("keygate.db"))),
        gateway_name: rustix::system::uname()
            .nodename()
            .to_str()
            .unwrap()
            .to_owned(),
        usage: UsageConfig {
            time_zone: jiff::tz::TimeZone::UTC,
            spool: None,
            records: 30 * 86_400,
            sums: 400 * 86_400,
            currency: "EUR".to_owned(),
        },
        prices: vec![],
        alerts: None,
        sign_in: SignInConfig {
            oidc: None,
            mail: None,
            url: None,
            operators: vec![],
            session: 8 * 3600,
            idle: 30 * 60,
        },
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
        limits_unavailable = "refuse"
        [keys.default_limits]
        requests_per_minute = 60
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
        sse_ping = "15s"
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
            source: KeysSource::File,
            max_stale: None,
            file: "/srv/keys.jsonl".into(),
            named: true,
            watch: true,
            max_drop_percent: 0,
            default_limits: {
                let mut limits = KeyLimits::default();
                limits.set(LimitKind::RequestsPerMinute, LimitSetting::at_most(60));
                limits
            },
            limits_unavailable: LimitsUnavailable::Refuse,
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
    assert_eq!(config.timeouts.sse_ping, Duration::from_secs(15));
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
        "use one of file, source",
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
fn a_byte_order_mark_changes_no_line() {
    let text = format!("\u{feff}\nworker = 2{UPSTREAM}");
    assert_bare_fault(&text, 2, "worker", "did you mean workers?");
}

/// Reads the text alone: the folder and the environment are empty.
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
