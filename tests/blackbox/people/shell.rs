//! `keygate members` and `keygate invite`.

use serde_json::Value;

use crate::people::panel::{
    OTHER_PASSWORD, PASSWORD, Person, accept, by_password, code_of, invite, run, stand,
};
use crate::support::gateway::Gateway;

/// How a command fails: its exit status and what it says.
fn refused(gateway: &Gateway, arguments: &[&str]) -> (i32, String) {
    let ran = gateway.run(arguments, "");
    (ran.code.expect("a status"), ran.err)
}

#[test]
fn members_are_listed_get_another_role_and_are_removed() {
    let stand = stand();
    let gateway = &stand.gateway;
    let alice = Person::invited(gateway, "acme", "alice@example.com", "owner");
    let bob = Person::invited(gateway, "acme", "bob@example.com", "member");
    let listed = run(gateway, &["members", "list", "acme"]);
    let heads = listed.lines().next().expect("a line");
    for head in ["ID", "E-MAIL", "NAME", "ROLE", "SIGN-IN", "LAST SIGN-IN"] {
        assert!(heads.contains(head), "{listed}");
    }
    let line = listed.lines().find(|line| line.contains("bob@")).unwrap();
    assert!(line.contains("member") && line.contains("password"));
    let json = run(gateway, &["members", "list", "acme", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["members"].as_array().unwrap().len(), 2);
    let id = bob.session["principal"]["id"].as_str().unwrap();

    // By the address, in any case, or by the id.
    let role = ["members", "role", "acme", "BOB@example.com", "viewer"];
    let told = run(gateway, &role);
    assert_eq!(told, "bob@example.com is viewer of acme now\n");
    assert_eq!(bob.lives(gateway), 401);
    let told = run(gateway, &["members", "remove", "acme", id]);
    assert_eq!(told, "removed bob@example.com from acme\n");
    assert_eq!(alice.lives(gateway), 200);

    // The operator may leave an account without an owner, and is told.
    let last = gateway.run(&["members", "remove", "acme", "alice@example.com"], "");
    assert_eq!(last.code, Some(0), "{}", last.err);
    assert!(
        last.err
            .contains("acme has no owner now; make one with 'keygate members role"),
        "{}",
        last.err
    );
    let json = run(gateway, &["members", "list", "acme", "--json"]);
    assert_eq!(json, "{\"members\":[]}\n");
}

#[test]
fn a_link_for_a_new_password_is_printed_alone_and_works_once() {
    let stand = stand();
    let gateway = &stand.gateway;
    let alice = Person::invited(gateway, "acme", "alice@example.com", "owner");
    let reset = ["members", "reset-password", "acme", "alice@example.com"];
    let ran = gateway.run(&reset, "");
    assert!(
        ran.err.contains("once, within 7 days") && ran.err.contains("shown only now"),
        "{}",
        ran.err
    );
    let code = code_of(&ran.out);
    assert_eq!(alice.lives(gateway), 200, "until the link is used");
    assert_eq!(accept(gateway, &code, OTHER_PASSWORD).status, 200);
    assert_eq!(alice.lives(gateway), 401);
    assert_eq!(accept(gateway, &code, PASSWORD).status, 401);
    let old = by_password(gateway, "alice@example.com", PASSWORD);
    let new = by_password(gateway, "alice@example.com", OTHER_PASSWORD);
    assert_eq!((old.status, new.status), (401, 200));
    // The role is what it was.
    assert_eq!(new.json()["accounts"][0]["role"], "owner");
}

#[test]
fn an_invitation_is_printed_once_listed_and_taken_back() {
    let stand = stand();
    let gateway = &stand.gateway;
    let ran = gateway.run(&["invite", "acme", "bob@example.com"], "");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(
        ran.err
            .contains("Send this link to bob@example.com, who becomes member of acme by it."),
        "{}",
        ran.err
    );
    let code = code_of(&ran.out);
    assert!(!ran.err.contains(&code), "the link stands alone");
    let listed = run(gateway, &["invite", "list", "acme"]);
    assert!(
        listed.contains("bob@example.com") && listed.contains("a new member"),
        "{listed}"
    );
    assert!(!listed.contains(&code));
    let json = run(gateway, &["invite", "list", "acme", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let open = &json["invitations"][0];
    assert_eq!(open["role"], "member");
    let id = open["id"].as_str().unwrap();
    // What the command says to do works.
    assert!(
        ran.err
            .contains(&format!("keygate invite revoke acme {id}")),
        "{}",
        ran.err
    );
    let told = run(gateway, &["invite", "revoke", "acme", id]);
    assert_eq!(told, format!("revoked {id}\n"));
    assert_eq!(accept(gateway, &code, PASSWORD).status, 401);
    let (status, told) = refused(gateway, &["invite", "revoke", "acme", id]);
    assert_eq!((status, told.contains("no open invitation")), (1, true));
    let json = run(gateway, &["invite", "acme", "bob@example.com", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(
        json["link"]
            .as_str()
            .is_some_and(|link| link.contains("/#invitation="))
    );
}

#[test]
fn what_cannot_be_done_is_said_with_its_remedy() {
    let stand = stand();
    let gateway = &stand.gateway;
    let twice = invite(gateway, "acme", "alice@example.com", "owner");
    drop(twice);
    for (arguments, status, told) in [
        (
            &["members", "remove", "acme", "nobody@example.com"][..],
            1,
            "'keygate members list acme' lists them",
        ),
        (
            &["members", "role", "acme", "per_0", "owner"],
            1,
            "'keygate members list acme' lists them",
        ),
        (
            &["members", "list", "gone"],
            1,
            "No account has this id; keygate accounts list",
        ),
        (
            &["members", "role", "acme", "a@b.c", "admin"],
            2,
            "[possible values: viewer, member, owner]",
        ),
        (&["members", "list", "no id"], 2, "keygate accounts list"),
        (
            &["invite", "gone", "a@example.com"],
            1,
            "No account has this id; keygate accounts list",
        ),
        (
            &["invite", "acme", "alice"],
            1,
            "must be an e-mail address; write it like alice@example.com",
        ),
        (&["invite", "acme"], 2, "<EMAIL>"),
        (
            &["invite", "revoke", "acme", "inv_0"],
            1,
            "no open invitation",
        ),
    ] {
        let (is, said) = refused(gateway, arguments);
        assert_eq!(is, status, "{arguments:?}: {said}");
        assert!(said.contains(told), "{arguments:?}: {said}");
    }
}

#[test]
fn without_a_panel_nobody_is_invited() {
    let stand = crate::support::stand::Stand::new();
    let gateway = &stand.gateway;
    run(gateway, &["accounts", "create", "acme"]);
    let (status, told) = refused(gateway, &["invite", "acme", "alice@example.com"]);
    assert_eq!((status, told.contains("set admin.listen")), (1, true));
    let open = run(gateway, &["invite", "list", "acme", "--json"]);
    assert_eq!(open, "{\"invitations\":[]}\n");
}
