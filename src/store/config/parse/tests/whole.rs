//! The command line, what a reload applies, and warnings.

use super::*;

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
    // The paths in the section are read although the files are not valid: a reload loads each certificate on its own.
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
fn a_panel_behind_a_proxy_that_hides_its_clients_is_a_warning() {
    let warned = |admin: &str, url: &str, address: &str| {
        let admin = format!("[admin]\nlisten = \"127.0.0.1:9180\"\n{admin}");
        let sign_in = format!("[sign_in]\nurl = \"{url}\"\n");
        let text = format!("{admin}{sign_in}[client_address]\n{address}{UPSTREAM}");
        let warnings = config_of(&text).warnings().into_iter();
        warnings.map(|fault| fault.field).collect::<Vec<_>>()
    };
    let url = "https://panel.example.com";
    assert_eq!(warned("", url, ""), ["client_address.from"]);
    let proxy = "from = \"x-forwarded-for\"\ntrusted_proxies = [\"10.0.0.1/32\"]";
    assert!(warned("", url, proxy).is_empty());
    assert!(warned("", "http://127.0.0.1:9180", "").is_empty());
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
