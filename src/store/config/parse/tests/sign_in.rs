//! How persons sign in.

use crate::policy::person::Role;
use crate::store::config::{OidcConfig, SignInConfig};

use super::*;

const OIDC: &str =
    "[sign_in.oidc]\nissuer = \"https://login.example.com\"\nclient_id = \"keygate\"\n";

fn sign_in(text: &str) -> SignInConfig {
    config_of(&format!("{text}{UPSTREAM}")).sign_in
}

fn oidc(text: &str) -> OidcConfig {
    sign_in(text).oidc.unwrap()
}

#[test]
fn a_provider_has_an_issuer_and_a_client_id_and_the_rest_has_defaults() {
    assert_eq!(sign_in("").oidc, None);
    let config = oidc(OIDC);
    assert_eq!(config.issuer, "https://login.example.com");
    assert_eq!(config.client_id, "keygate");
    assert_eq!(config.client_secret, None);
    assert_eq!(config.scopes, ["openid", "email", "profile"]);
    assert_eq!(config.name, "login.example.com");
    assert!(config.auto_invite.is_empty());
}

#[test]
fn every_field_of_the_sign_in_can_be_set_and_the_secret_is_not_shown() {
    let folder = Folder::new();
    folder.put("oidc.secret", "s3cret/+\n");
    let text = format!(
        "[sign_in]\nurl = \"https://panel.example.com\"\noperators = [\"Alice@example.com\"]\nsession_hours = 1\nidle_minutes = 5\n\
         [sign_in.oidc]\nissuer = \"https://Login.example.com/realms/a/\"\nclient_id = \"keygate\"\n\
         client_secret_file = \"oidc.secret\"\nscopes = [\"openid\", \"email\", \"groups\"]\nname = \"Example Inc.\"\n\
         auto_invite = [{{ claim = \"groups\", value = \"ai-team\", account = \"acme\", role = \"member\" }}]\n{UPSTREAM}"
    );
    let config = folder.read(&text, &Overrides::default()).config.unwrap();
    assert!(!format!("{config:?}").contains("s3cret"));
    let SignInConfig {
        oidc,
        mail: _,
        url,
        operators,
        session,
        idle,
    } = config.sign_in;
    assert_eq!(url.as_deref(), Some("https://panel.example.com"));
    assert_eq!(operators[0].as_str(), "alice@example.com");
    assert_eq!((session, idle), (3600, 300));
    let oidc = oidc.unwrap();
    assert_eq!(oidc.issuer, "https://Login.example.com/realms/a/");
    assert_eq!(oidc.issuer_url.reveal_target(), "/realms/a/");
    assert_eq!(oidc.client_secret.unwrap().reveal(), "s3cret/+");
    assert_eq!(oidc.scopes, ["openid", "email", "groups"]);
    assert_eq!(oidc.name, "Example Inc.");
    let [rule] = &oidc.auto_invite[..] else {
        panic!("{:?}", oidc.auto_invite)
    };
    assert_eq!((&*rule.claim, &*rule.value), ("groups", "ai-team"));
    assert_eq!((rule.account.as_str(), rule.role), ("acme", Role::Member));
}

#[test]
fn a_mail_server_has_the_port_of_its_protection_unless_it_names_one() {
    for (text, port) in [
        ("server = \"smtp.example.com\"", 465),
        ("server = \"smtp.example.com\"\ntls = \"starttls\"", 587),
        ("server = \"localhost\"\ntls = \"none\"", 25),
        ("server = \"smtp.example.com:2525\"", 2525),
    ] {
        let text = format!("[sign_in.mail]\nfrom = \"a@example.com\"\n{text}\n");
        assert_eq!(sign_in(&text).mail.unwrap().port, port, "{text}");
    }
}

#[test]
fn each_fault_of_the_sign_in_is_named_with_its_line_and_a_remedy() {
    let rule = |fields: &str| format!("{OIDC}auto_invite = [{{ {fields} }}]\n");
    for (text, line, field, part) in [
        (
            "[sign_in]\nurl = \"https://example.com/panel\"\n",
            2,
            "url",
            "has a path",
        ),
        (
            "[sign_in]\nurl = \"http://panel.example.com\"\n",
            2,
            "url",
            "in clear",
        ),
        (
            "[sign_in]\nsession_hours = 0\n",
            2,
            "session_hours",
            "1 to 720",
        ),
        (
            "[sign_in]\nidle_minutes = 1441\n",
            2,
            "idle_minutes",
            "1 to 1440",
        ),
        ("[sign_in]\nhours = 1\n", 2, "hours", ""),
        (
            "[sign_in]\noperators = [\"a@example.com\"]\n",
            2,
            "operators",
            "add [sign_in.oidc]",
        ),
        (
            &format!("[sign_in]\noperators = [\"alice\"]\n{OIDC}"),
            2,
            "operators[0]",
            "e-mail address",
        ),
        (
            "[sign_in.oidc]\nclient_id = \"a\"\n",
            1,
            "oidc.issuer",
            "is missing",
        ),
        (
            "[sign_in.oidc]\nissuer = \"https://a\"\n",
            1,
            "oidc.client_id",
            "is missing",
        ),
        (
            "[sign_in.oidc]\nclient_id = \"a\"\nissuer = \"http://login.example.com\"\n",
            3,
            "oidc.issuer",
            "write https://",
        ),
        (
            "[sign_in.oidc]\nclient_id = \"a\"\nissuer = \"https://login.example.com/?a\"\n",
            3,
            "oidc.issuer",
            "has a query",
        ),
        (
            "[sign_in.oidc]\nissuer = \"https://a\"\nclient_id = \"a b\"\n",
            3,
            "oidc.client_id",
            "one word",
        ),
        (
            &format!("{OIDC}[database]\nurl = \"\"\n"),
            2,
            "oidc.issuer",
            "needs a database",
        ),
        (
            &format!("{OIDC}client_secret_file = \"none\"\n"),
            4,
            "oidc.client_secret_file",
            "cannot be read",
        ),
        (
            &format!("{OIDC}client_secret = \"secret\"\n"),
            4,
            "oidc.client_secret",
            "did you mean client_secret_file?",
        ),
        (
            &format!("{OIDC}scopes = [\"email\"]\n"),
            4,
            "oidc.scopes",
            "lacks \"openid\"",
        ),
        (
            &format!("{OIDC}scopes = [\"openid email\"]\n"),
            4,
            "oidc.scopes[0]",
            "is no scope",
        ),
        (
            &rule("claim = \"a\", value = \"b\", account = \"c\""),
            4,
            "oidc.auto_invite[0].role",
            "is missing",
        ),
        (
            &rule("claim = \"a\", value = \"b\", account = \"c\", role = \"admin\""),
            4,
            "oidc.auto_invite[0].role",
            "write \"viewer\"",
        ),
        (
            &rule("claim = \"a\", value = \"b\", account = \"c d\", role = \"owner\""),
            4,
            "oidc.auto_invite[0].account",
            "write the account's id",
        ),
        (
            "[sign_in.mail]\nfrom = \"a@example.com\"\n",
            1,
            "mail.server",
            "is missing",
        ),
        (
            "[sign_in.mail]\nserver = \"smtp.example.com\"\n",
            1,
            "mail.from",
            "is missing",
        ),
        (
            "[sign_in.mail]\nserver = \"https://a\"\nfrom = \"a@example.com\"\n",
            2,
            "mail.server",
            "is no server",
        ),
        (
            "[sign_in.mail]\nserver = \"a:0\"\nfrom = \"a@example.com\"\n",
            2,
            "mail.server",
            "is no server",
        ),
        (
            "[sign_in.mail]\nserver = \"a\"\nfrom = \"Alice\"\n",
            3,
            "mail.from",
            "e-mail address",
        ),
        (
            "[sign_in.mail]\nserver = \"a\"\nfrom = \"a@b\"\ntls = \"ssl\"\n",
            4,
            "mail.tls",
            "write \"tls\"",
        ),
        (
            "[sign_in.mail]\nserver = \"a\"\nfrom = \"a@b\"\ntls = \"none\"\n",
            4,
            "mail.tls",
            "in clear",
        ),
        (
            "[sign_in.mail]\nserver = \"a\"\nfrom = \"a@b\"\nusername = \"u\"\n",
            1,
            "mail.password_file",
            "is missing",
        ),
    ] {
        let faults = faults_of(format!("{text}{UPSTREAM}"));
        let field = format!("sign_in.{field}");
        let fault = faults.iter().find(|fault| fault.field == field);
        let fault = fault.unwrap_or_else(|| panic!("{text}\n{faults:#?}"));
        assert_one(fault, line, &field, part);
        assert!(!fault.message.contains("\"secret\""), "{fault}");
    }
}

#[test]
fn a_sign_in_without_a_panel_is_warned_of_and_changes_need_a_restart() {
    let without = config_of(&format!("{OIDC}{UPSTREAM}"));
    let fields: Vec<_> = without
        .warnings()
        .into_iter()
        .map(|warning| warning.field)
        .collect();
    assert_eq!(fields, ["sign_in.oidc"]);
    let mut with = without.clone();
    with.admin.listen = Some("127.0.0.1:1".parse().unwrap());
    assert!(with.warnings().is_empty());

    let mut changed = without.clone();
    changed.sign_in = sign_in("[sign_in]\nsession_hours = 1\nidle_minutes = 1\n");
    assert_eq!(
        restart_needed(&without, &changed),
        [
            "sign_in.oidc",
            "sign_in.session_hours",
            "sign_in.idle_minutes"
        ]
    );
}
