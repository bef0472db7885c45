//! Alerts.

use super::*;

#[test]
fn alerts_have_a_webhook_a_secret_beside_the_config_and_a_time() {
    assert_eq!(config_of(UPSTREAM).alerts, None);
    let folder = Folder::new();
    let text = format!("[alerts]\nwebhook = \"https://h.example.com/x\"{UPSTREAM}");
    let alerts = folder.read(&text, &Overrides::default()).config.unwrap();
    let alerts = alerts.alerts.unwrap();
    assert_eq!(alerts.webhook.server.to_string(), "https://h.example.com");
    assert_eq!(alerts.webhook.reveal_target(), "/x");
    assert_eq!(alerts.secret.file(), folder.0.path().join("alerts.secret"));
    assert_eq!(alerts.secret.reveal(), None);
    assert_eq!(alerts.upstream_after, Duration::from_secs(30));
}

#[test]
fn each_fault_of_the_alerts_is_named_with_its_line_and_a_remedy() {
    let webhook = "[alerts]\nwebhook = \"https://h.example.com/x\"\n";
    for (text, line, field, part) in [
        ("[alerts]\n".to_owned(), 1, "alerts.webhook", "is missing"),
        (
            format!("{webhook}[database]\nurl = \"\"\n"),
            2,
            "alerts.webhook",
            "needs a database",
        ),
        (
            "[alerts]\nwebhook = \"http://h.example.com\"\n".to_owned(),
            2,
            "alerts.webhook",
            "write https://",
        ),
        (
            format!("{webhook}secret_file = \"\"\n"),
            3,
            "alerts.secret_file",
            "name a file",
        ),
        (
            format!("{webhook}upstream_after = \"0s\"\n"),
            3,
            "alerts.upstream_after",
            "\"1s\" or more",
        ),
        (format!("{webhook}url = \"\"\n"), 3, "alerts.url", ""),
    ] {
        assert_fault(&text, line, field, part);
    }
}
