//! Upstreams and their credentials.

use crate::policy::field_kind::ForwardHeaders;

use super::*;

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

#[test]
fn headers_to_forward_are_named_or_all_and_never_a_credential() {
    let upstream = |line: &str| {
        format!(
            "[[upstreams]]\nname = \"u\"\nurl = \"http://127.0.0.1:1\"\nforward_headers = {line}\n"
        )
    };
    for (line, expected) in [
        ("[]", ForwardHeaders::NONE),
        ("[\"*\"]", ForwardHeaders::All),
        (
            "[\"X-Tenant\"]",
            ForwardHeaders::Named(vec!["X-Tenant".into()]),
        ),
    ] {
        let config = config_of(&upstream(line));
        assert_eq!(config.upstreams[0].forward_headers, expected, "{line}");
    }
    for (line, part) in [
        ("[\"cookie\"]", "never sent upstream; remove it"),
        ("[\"x_tenant\"]", "letters, digits and -"),
        ("[\"x tenant\"]", "is not the name of a header"),
        ("[\"content-length\"]", "by the gateway itself"),
    ] {
        assert_bare_fault(&upstream(line), 4, "upstreams[0].forward_headers[0]", part);
    }
    let both = upstream("[\"*\", \"x-tenant\"]");
    assert_bare_fault(
        &both,
        4,
        "upstreams[0].forward_headers[1]",
        "write \"*\" alone",
    );
}
