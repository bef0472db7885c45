//! Every other section, field by field.

use super::*;

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
