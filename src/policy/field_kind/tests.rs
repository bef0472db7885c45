use super::*;

#[test]
fn names_are_classified_in_any_case() {
    for (name, kind) in [
        ("Host", Host),
        ("CONTENT-TYPE", ContentType),
        ("X-Api-Key", ApiKey),
        ("x_real_ip", UnusualName),
        ("content_length", UnusualName),
        ("Proxy-Connection", HopByHop),
        ("x-portkey-config", NotToUpstream),
        ("X-Forwarded-Host", XForwardedOther),
        ("accept-encoding", AcceptEncoding),
        ("accept-charset", AcceptOther),
        ("x-stainless-os", Forwarded),
        ("x-stainless_os", UnusualName),
        ("Anthropic-Dangerous-Direct-Browser-Access", Forwarded),
        ("anthropic-dangerous-direct-browser-accesses", Other),
        ("x_portkey_config", UnusualName),
        ("x-portkey-a_b", NotToUpstream),
        ("access-control-a_b", NotToClient),
        ("CF-Connecting-IP", NotToUpstream),
        ("x-amzn-trace-id", NotToUpstream),
        (
            "X-Portkey-a-name-that-is-longer-than-any-that-is-known-as-a-whole",
            NotToUpstream,
        ),
        (
            "a-name-that-is-longer-than-any-that-is-known-as-a-whole",
            Other,
        ),
        ("", Other),
    ] {
        assert_eq!(FieldKind::of(name.as_bytes()), kind, "{name}");
    }
}

#[test]
fn every_name_and_beginning_is_found_as_it_stands_in_the_list() {
    for (name, kind) in NAMES {
        assert_eq!(FieldKind::of(name.as_bytes()), kind, "{name}");
        assert_eq!(
            FieldKind::of(name.to_uppercase().as_bytes()),
            kind,
            "{name}"
        );
        assert_eq!(name, name.to_lowercase());
    }
    for (prefix, kind) in PREFIXES {
        assert_eq!(
            FieldKind::of(format!("{prefix}zzz").as_bytes()),
            kind,
            "{prefix}"
        );
        assert_eq!(prefix, prefix.to_lowercase());
    }
}

/// The kind, by reading both lists through.
fn read_through(name: &str) -> FieldKind {
    let lower = name.to_ascii_lowercase();
    let whole = NAMES.iter().find(|(known, _)| *known == lower);
    let begun = || {
        PREFIXES
            .iter()
            .find(|(prefix, _)| lower.starts_with(prefix))
    };
    match whole.or_else(begun).map(|(_, kind)| *kind) {
        Some(kind) if whole.is_some() => kind,
        Some(kind @ (HopByHop | NotToClient | NotToUpstream)) => kind,
        _ if !name
            .chars()
            .all(|sign| sign.is_ascii_alphanumeric() || sign == '-') =>
        {
            UnusualName
        }
        None if SECRET_ENDS.iter().any(|end| lower.ends_with(end)) => NotToUpstream,
        kind => kind.unwrap_or(Other),
    }
}

#[test]
fn a_name_that_differs_in_one_character_is_found_as_by_reading_the_lists_through() {
    let prefixes = PREFIXES.iter().map(|(prefix, _)| *prefix);
    for name in NAMES.iter().map(|(name, _)| *name).chain(prefixes) {
        for at in 0..name.len() {
            for byte in "aAzZ09-_^~!.'`|x".chars() {
                let mut other = name.to_owned();
                other.replace_range(at..=at, &byte.to_string());
                let (found, expected) = (FieldKind::of(other.as_bytes()), read_through(&other));
                assert_eq!(found, expected, "{other}");
            }
        }
        for other in [&name[1..], &name[..name.len() - 1], &format!("{name}a")] {
            let (found, expected) = (FieldKind::of(other.as_bytes()), read_through(other));
            assert_eq!(found, expected, "{other}");
        }
    }
}

#[test]
fn a_listed_header_passes_in_any_case() {
    let named = ForwardHeaders::Named(vec!["x-tenant".into()]);
    assert!(named.lists(b"X-Tenant"));
    assert!(!named.lists(b"x-tenants"));
    assert!(ForwardHeaders::All.lists(b"x-other"));
    assert!(!ForwardHeaders::NONE.lists(b"x-other"));
}

#[test]
fn what_never_goes_upstream_cannot_be_listed() {
    for good in [
        "x-tenant",
        "X-Custom",
        "content-language",
        "origin",
        "user-agent",
    ] {
        assert_eq!(ForwardHeaders::check_name(good), Ok(()), "{good}");
    }
    for (bad, part) in [
        ("", "is not the name of a header"),
        ("x tenant", "is not the name of a header"),
        ("x-\u{e4}", "is not the name of a header"),
        ("x_tenant", "letters, digits and -"),
        ("x.tenant", "letters, digits and -"),
        ("x-session-token", "a credential"),
        ("Connection", "for one connection only"),
        ("proxy-authorization", "for one connection only"),
        ("Cookie", "a credential"),
        ("authorization", "a credential"),
        ("x-api-key", "a credential"),
        ("x-goog-iap-jwt-assertion", "a credential"),
        ("x-vllm-anything", "steers servers"),
        ("content-type", "set or dropped"),
        ("x-request-id", "set or dropped"),
        ("x-forwarded-user", "set or dropped"),
        ("accept-encoding", "set or dropped"),
    ] {
        let fault = ForwardHeaders::check_name(bad).unwrap_err();
        assert!(fault.contains(part), "{bad}: {fault}");
    }
}
