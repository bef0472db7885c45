//! `keygate keys rotate` and `keys expire-previous`, with a gateway and on a key file alone.

use serde_json::Value;

use crate::commands::ran::{bearer, done, ok};
use crate::rotation::rotated::{key, shown, statuses};
use crate::support::gateway::run;
use crate::support::stand::Stand;
use crate::support::token::hash;

#[test]
fn a_key_is_rotated_from_the_shell_and_its_old_token_ended() {
    let mine = key("key_mine");
    let stand = Stand::with(|setup| setup.keys(&[&mine]));
    let (gateway, first) = (&stand.gateway, &*mine.token);
    let printed = ok(gateway, &["keys", "rotate", "key_mine"]);
    let second = bearer(&printed);
    let key = shown(gateway, "key_mine");
    let end = key["previous"]["not_after"]
        .as_str()
        .expect("a time")
        .to_owned();
    assert!(
        printed.contains("OpenAI Compatible URL: http://"),
        "{printed}"
    );
    assert!(printed.contains(&format!("works until {end}")), "{printed}");
    assert_eq!(statuses(gateway, [first, &second]), [200, 200]);
    let listed = ok(gateway, &["keys", "list"]);
    assert!(listed.contains(&format!("until {end}")), "{listed}");
    let text = ok(gateway, &["keys", "show", "key_mine"]);
    assert!(
        text.contains(&format!(
            "Previous token: {}, works until {end}, last used",
            &first[48..]
        )),
        "{text}"
    );

    // Without a terminal to ask on, the token from before is not ended unless that is meant.
    let refused = gateway.run(&["keys", "rotate", "key_mine"], "y\n");
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains("nothing was rotated") && refused.err.contains("--yes"),
        "{}",
        refused.err
    );
    assert_eq!(statuses(gateway, [first, &second]), [200, 200]);
    let again = gateway.run(
        &["keys", "rotate", "key_mine", "--grace", "7d", "--yes"],
        "",
    );
    assert!(again.err.contains("has ended"), "{}", again.err);
    let third = bearer(&done(again));
    assert_eq!(statuses(gateway, [first, &second, &third]), [401, 200, 200]);
    let shown = ok(gateway, &["keys", "expire-previous", "key_mine"]);
    assert!(shown.contains("Previous token: -"), "{shown}");
    assert_eq!(statuses(gateway, [&second, &third]), [401, 200]);

    ok(gateway, &["keys", "rotate", "key_mine"]);
    let printed = ok(gateway, &["keys", "rotate", "key_mine", "--now", "--json"]);
    let rotated: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(rotated["key"]["previous"], Value::Null);
    assert_eq!(
        statuses(
            gateway,
            [&third, rotated["token"].as_str().expect("a token")]
        ),
        [401, 200]
    );

    for (arguments, code) in [
        (&["--grace", "91d"][..], 2),
        (&["--grace", "0h"], 2),
        (&["--grace", "1d", "--now"], 2),
    ] {
        let ran = gateway.run(&[&["keys", "rotate", "key_mine"], arguments].concat(), "");
        assert_eq!(ran.code, Some(code), "{arguments:?}: {}", ran.err);
    }
    assert_eq!(
        gateway.run(&["keys", "rotate", "no_such_key"], "").code,
        Some(1)
    );
}

#[test]
fn a_key_is_rotated_on_a_key_file_without_a_gateway() {
    let folder = tempfile::tempdir().expect("a folder");
    let on = |arguments: &[&str]| {
        run(
            folder.path(),
            &[arguments, &["--keys", "mine.jsonl"]].concat(),
            "",
        )
    };
    let file = || {
        let text = std::fs::read_to_string(folder.path().join("mine.jsonl")).expect("the file");
        serde_json::from_str::<Value>(text.trim()).expect("one key")
    };
    let first = bearer(&done(on(&["keys", "create", "--name", "offline"])));
    let id = file()["id"].as_str().expect("an id").to_owned();
    let second = bearer(&done(on(&["keys", "rotate", &id, "--grace", "12h"])));
    let record = file();
    assert_eq!(record["hash"], hash(&second));
    assert_eq!(record["hint"], second[48..]);
    assert_eq!(record["previous"]["hash"], hash(&first));
    assert_eq!(record["previous"]["hint"], first[48..]);
    let refused = on(&["keys", "rotate", &id]);
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert_eq!(file(), record);
    done(on(&["keys", "expire-previous", &id]));
    assert_eq!(file().get("previous"), None);
    assert_eq!(file()["hash"], hash(&second));
}
