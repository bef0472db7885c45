//! Persons, invitations and sessions in the database.

use tempfile::TempDir;

use super::{open, url};
use crate::policy::person::{EmailAddress, PersonId, Role};
use crate::store::database::{
    Database, Invitation, Membership, NewInvitation, NewPerson, NewSession, PersonIdentity,
    SessionLimits,
};

const NOW: i64 = 1_800_000_000;
const LIMITS: SessionLimits = SessionLimits {
    whole: 8 * 3600,
    idle: 1800,
};

fn database() -> (TempDir, Database) {
    let folder = TempDir::new().unwrap();
    let database = open(&url(&folder), "one");
    (folder, database)
}

fn email(text: &str) -> EmailAddress {
    EmailAddress::parse(text).unwrap()
}

fn invitation(id: &str, account: &str, role: Role) -> NewInvitation {
    NewInvitation {
        invitation: Invitation {
            id: id.to_owned(),
            account: account.to_owned(),
            email: "alice@example.com".to_owned(),
            role,
            person: None,
            invited_by: "operator".to_owned(),
            inviter: None,
            created_at: NOW,
            expires_at: NOW + 7 * 86_400,
        },
        hash: format!("hash of {id}"),
    }
}

fn alice(password: &str) -> NewPerson {
    NewPerson {
        id: PersonId::parse(&format!("per_{password}")).unwrap(),
        identity: PersonIdentity::Password(email("alice@example.com")),
        email: Some(email("alice@example.com")),
        name: None,
        password: Some(password.to_owned()),
    }
}

fn of_provider(subject: &str) -> NewPerson {
    NewPerson {
        id: PersonId::parse(&format!("per_{subject}")).unwrap(),
        identity: PersonIdentity::Provider {
            issuer: "https://id.example".to_owned(),
            subject: subject.to_owned(),
        },
        email: Some(email("alice@example.com")),
        name: Some("Alice".to_owned()),
        password: None,
    }
}

fn begin(database: &Database, person: &str, number: i64, now: i64) {
    let session = NewSession {
        id: format!("ses_{number}"),
        cookie: format!("cookie {number}"),
        secret: format!("secret {number}"),
        person: PersonId::parse(person).unwrap(),
        address: Some("192.0.2.1".to_owned()),
        user_agent: None,
    };
    database.begin_session(&session, now).unwrap();
}

fn roles(database: &Database, person: &str) -> Vec<(String, Role)> {
    let person = PersonId::parse(person).unwrap();
    let memberships = database.memberships(&person).unwrap();
    let role = |Membership { account, role, .. }| (account, role);
    memberships.into_iter().map(role).collect()
}

#[test]
fn an_invitation_is_used_once_and_gives_its_role() {
    let (_folder, database) = database();
    let new = invitation("inv_1", "acme", Role::Member);
    database.add_invitation(&new).unwrap();
    let open = database.open_invitation(&new.hash, NOW).unwrap();
    assert_eq!(open.as_ref(), Some(&new.invitation));
    assert_eq!(
        database.invitations("acme", NOW).unwrap(),
        std::slice::from_ref(&new.invitation)
    );

    let accept = |person: &NewPerson| {
        let accepted = database.accept_invitation(&new.hash, person, NOW);
        accepted.unwrap()
    };
    assert!(accept(&alice("one")));
    assert_eq!(
        roles(&database, "per_one"),
        [("acme".to_owned(), Role::Member)]
    );
    let identity = PersonIdentity::Password(email("alice@example.com"));
    let (person, password) = database.person(&identity).unwrap().unwrap();
    assert_eq!(
        (person.id.as_str(), &*password.unwrap()),
        ("per_one", "one")
    );
    assert_eq!(database.members("acme").unwrap()[0].person, person);

    // Nobody uses it a second time.
    assert!(database.remove_member("acme", "per_one", None).unwrap());
    assert!(!accept(&alice("two")));
    assert_eq!(roles(&database, "per_one"), []);
    assert_eq!(database.open_invitation(&new.hash, NOW).unwrap(), None);
    assert_eq!(database.invitations("acme", NOW).unwrap(), []);
}

#[test]
fn an_invitation_that_has_expired_or_was_taken_back_gives_nothing() {
    let (_folder, database) = database();
    let (late, back) = (
        invitation("inv_1", "acme", Role::Owner),
        invitation("inv_2", "acme", Role::Owner),
    );
    database.add_invitation(&late).unwrap();
    database.add_invitation(&back).unwrap();
    assert!(!database.revoke_invitation("other", "inv_2", NOW).unwrap());
    assert!(database.revoke_invitation("acme", "inv_2", NOW).unwrap());
    let end = late.invitation.expires_at;
    for (hash, now) in [(&late.hash, end), (&back.hash, NOW)] {
        assert_eq!(database.open_invitation(hash, now).unwrap(), None);
        let accepted = database.accept_invitation(hash, &alice("one"), now);
        assert!(!accepted.unwrap());
    }
    assert_eq!(database.members("acme").unwrap(), []);
}

#[test]
fn a_password_that_is_set_anew_gives_no_role_and_ends_the_sessions() {
    let (_folder, database) = database();
    let first = invitation("inv_1", "acme", Role::Viewer);
    database.add_invitation(&first).unwrap();
    assert!(
        database
            .accept_invitation(&first.hash, &alice("one"), NOW)
            .unwrap()
    );
    begin(&database, "per_one", 1, NOW);
    assert!(database.session("cookie 1", LIMITS, NOW).unwrap().is_some());
    let mut reset = invitation("inv_2", "acme", Role::Owner);
    reset.invitation.person = Some("per_one".to_owned());
    database.add_invitation(&reset).unwrap();
    assert!(
        database
            .accept_invitation(&reset.hash, &alice("two"), NOW)
            .unwrap()
    );
    assert_eq!(
        roles(&database, "per_one"),
        [("acme".to_owned(), Role::Viewer)]
    );
    assert_eq!(database.session("cookie 1", LIMITS, NOW).unwrap(), None);
    let identity = PersonIdentity::Password(email("alice@example.com"));
    let (person, password) = database.person(&identity).unwrap().unwrap();
    assert_eq!(
        (person.id.as_str(), &*password.unwrap()),
        ("per_one", "two")
    );
}

#[test]
fn a_person_of_a_provider_is_not_the_one_with_the_same_address_and_a_password() {
    let (_folder, database) = database();
    let new = invitation("inv_1", "acme", Role::Owner);
    database.add_invitation(&new).unwrap();
    assert!(
        database
            .accept_invitation(&new.hash, &alice("one"), NOW)
            .unwrap()
    );
    database
        .note_provider_sign_in(&of_provider("s"), &[], NOW)
        .unwrap();
    assert_eq!(roles(&database, "per_s"), []);
    let identity = of_provider("s").identity;
    let (person, password) = database.person(&identity).unwrap().unwrap();
    assert_eq!((person.id.as_str(), password), ("per_s", None));
}

#[test]
fn what_a_claim_gives_is_judged_again_at_each_sign_in_and_what_was_given_by_hand_stays() {
    let (_folder, database) = database();
    let new = invitation("inv_1", "by_hand", Role::Viewer);
    database.add_invitation(&new).unwrap();
    let person = of_provider("s");
    assert!(database.accept_invitation(&new.hash, &person, NOW).unwrap());
    let sign_in = |given: &[(&str, Role)]| {
        let given: Vec<_> = given
            .iter()
            .map(|(account, role)| ((*account).to_owned(), *role))
            .collect();
        database
            .note_provider_sign_in(&person, &given, NOW)
            .unwrap();
        roles(&database, "per_s")
    };
    let by_hand = || ("by_hand".to_owned(), Role::Viewer);
    let ai = |role| ("ai".to_owned(), role);
    assert_eq!(
        sign_in(&[("ai", Role::Member), ("by_hand", Role::Owner)]),
        [ai(Role::Member), by_hand()]
    );
    assert_eq!(
        sign_in(&[("ai", Role::Owner)]),
        [ai(Role::Owner), by_hand()]
    );
    assert_eq!(sign_in(&[]), [by_hand()]);
}

#[test]
fn a_session_ends_by_time_by_removal_and_by_a_new_role() {
    let (_folder, database) = database();
    let new = invitation("inv_1", "acme", Role::Viewer);
    database.add_invitation(&new).unwrap();
    assert!(
        database
            .accept_invitation(&new.hash, &alice("one"), NOW)
            .unwrap()
    );
    let lives = |number: i64, now| {
        let session = database.session(&format!("cookie {number}"), LIMITS, now);
        session.unwrap()
    };
    begin(&database, "per_one", 1, NOW);
    let session = lives(1, NOW + 1799).unwrap();
    assert_eq!(session.memberships[0].account, "acme");
    assert_eq!(session.secret, "secret 1");
    assert_eq!(lives(1, NOW + 1800), None, "idle");
    // In use all the time, it ends all the same.
    for now in (NOW..NOW + LIMITS.whole).step_by(1000) {
        let session = lives(1, now).expect("in use");
        database.use_session(&session, now).unwrap();
    }
    assert_eq!(lives(1, NOW + LIMITS.whole), None, "whole");
    for (number, end) in [
        (
            2,
            (|database| database.set_role("acme", "per_one", Role::Owner, None))
                as fn(&Database) -> _,
        ),
        (3, |database| {
            database.remove_member("acme", "per_one", None)
        }),
    ] {
        begin(&database, "per_one", number, NOW);
        assert!(lives(number, NOW).is_some());
        assert!(end(&database).unwrap());
        assert_eq!(lives(number, NOW), None);
    }
}

#[test]
fn a_person_has_few_sessions_and_ends_own_ones_alone() {
    let (_folder, database) = database();
    for person in [of_provider("s"), of_provider("t")] {
        database.note_provider_sign_in(&person, &[], NOW).unwrap();
    }
    begin(&database, "per_t", 100, NOW);
    for number in 0..20 {
        begin(&database, "per_s", number, NOW + number);
    }
    let person = PersonId::parse("per_s").unwrap();
    let sessions = database.sessions_of(&person, LIMITS, NOW + 20).unwrap();
    assert_eq!(sessions.len(), 16);
    assert_eq!(sessions[0].id, "ses_19");
    assert!(!database.end_session_of(&person, "ses_100").unwrap());
    assert!(database.end_session_of(&person, "ses_19").unwrap());
    assert!(
        database
            .session("cookie 100", LIMITS, NOW)
            .unwrap()
            .is_some()
    );
    database.end_sessions_of(&person).unwrap();
    assert_eq!(database.sessions_of(&person, LIMITS, NOW).unwrap(), []);
}

#[test]
fn an_account_that_goes_takes_its_people_with_it() {
    let (_folder, database) = database();
    let new = invitation("inv_1", "acme", Role::Viewer);
    database.add_invitation(&new).unwrap();
    assert!(
        database
            .accept_invitation(&new.hash, &alice("one"), NOW)
            .unwrap()
    );
    database
        .add_invitation(&invitation("inv_2", "acme", Role::Viewer))
        .unwrap();
    begin(&database, "per_one", 1, NOW);
    database.remove_people_of("acme").unwrap();
    assert_eq!(database.session("cookie 1", LIMITS, NOW).unwrap(), None);
    assert_eq!(database.members("acme").unwrap(), []);
    assert_eq!(database.invitations("acme", NOW).unwrap(), []);
}

/// An account with these owners, of whom each has signed in once.
fn owners(database: &Database, account: &str, subjects: &[&str]) {
    for subject in subjects {
        let new = invitation(&format!("inv_{account}_{subject}"), account, Role::Owner);
        database.add_invitation(&new).unwrap();
        let person = of_provider(subject);
        assert!(database.accept_invitation(&new.hash, &person, NOW).unwrap());
    }
}

fn by(subject: &str) -> PersonId {
    of_provider(subject).id
}

#[test]
fn owners_who_demote_or_remove_each_other_leave_one() {
    let (_folder, database) = database();
    owners(&database, "acme", &["a", "b"]);
    let (a, b) = (by("a"), by("b"));
    let demote = |who: &str, by: &PersonId| {
        let changed = database.set_role("acme", who, Role::Viewer, Some(by));
        changed.unwrap()
    };
    assert!(demote("per_b", &a));
    // No owner any more, whatever was true when the call began.
    assert!(!demote("per_a", &b));
    assert!(!demote("per_a", &a), "the last one");
    assert!(!database.remove_member("acme", "per_a", Some(&b)).unwrap());
    assert!(!database.remove_member("acme", "per_a", Some(&a)).unwrap());
    assert_eq!(
        roles(&database, "per_a"),
        [("acme".to_owned(), Role::Owner)]
    );
    assert!(database.remove_member("acme", "per_a", None).unwrap());
}

#[test]
fn what_an_owner_made_is_void_when_the_role_is_gone_and_what_was_made_for_a_member_too() {
    let (_folder, database) = database();
    owners(&database, "acme", &["a", "b"]);
    let a = by("a");
    let by_a = |id: &str, email: &str| {
        let mut new = invitation(id, "acme", Role::Owner);
        new.invitation.email = email.to_owned();
        new.invitation.inviter = Some(a.as_str().to_owned());
        new
    };
    assert!(
        database
            .add_invitation(&by_a("inv_1", "x@example.com"))
            .unwrap()
    );
    // A second one for the same address, by an operator.
    assert!(
        database
            .add_invitation(&invitation("inv_2", "acme", Role::Owner))
            .unwrap()
    );
    assert!(
        database
            .set_role("acme", "per_a", Role::Member, None)
            .unwrap()
    );
    assert_eq!(database.invitations("acme", NOW).unwrap(), []);
    assert!(
        !database
            .add_invitation(&by_a("inv_3", "x@example.com"))
            .unwrap()
    );
}

#[test]
fn an_owners_link_to_a_new_password_is_void_once_its_person_is_in_another_account() {
    let (_folder, database) = database();
    owners(&database, "other", &["m"]);
    let first = invitation("inv_1", "other", Role::Viewer);
    database.add_invitation(&first).unwrap();
    assert!(
        database
            .accept_invitation(&first.hash, &alice("one"), NOW)
            .unwrap()
    );
    let reset = |id: &str, inviter: Option<&str>| {
        let mut new = invitation(id, "other", Role::Viewer);
        new.invitation.person = Some("per_one".to_owned());
        new.invitation.inviter = inviter.map(str::to_owned);
        database.add_invitation(&new).unwrap();
        new
    };
    let of_owner = reset("inv_2", Some("per_m"));
    let join = invitation("inv_3", "acme", Role::Owner);
    database.add_invitation(&join).unwrap();
    assert!(
        database
            .accept_invitation(&join.hash, &alice("other"), NOW)
            .unwrap()
    );
    let set = |new: &NewInvitation, password| {
        let set = database.accept_invitation(&new.hash, &alice(password), NOW);
        set.unwrap()
    };
    let password = || {
        let identity = PersonIdentity::Password(email("alice@example.com"));
        database.person(&identity).unwrap().unwrap().1.unwrap()
    };
    assert_eq!(password(), "one", "an invitation changes no password");
    assert!(!set(&of_owner, "stolen"));
    assert_eq!(password(), "one");
    let (of_operator, second) = (reset("inv_4", None), reset("inv_5", None));
    assert!(set(&of_operator, "two"));
    assert!(!set(&second, "three"), "one of several is used");
    assert_eq!(password(), "two");
}

#[test]
fn an_invitation_takes_no_greater_role_away() {
    let (_folder, database) = database();
    let first = invitation("inv_1", "acme", Role::Owner);
    let second = invitation("inv_2", "acme", Role::Viewer);
    for new in [&first, &second] {
        database.add_invitation(new).unwrap();
        let accepted = database.accept_invitation(&new.hash, &alice("one"), NOW);
        assert!(accepted.unwrap());
    }
    assert_eq!(
        roles(&database, "per_one"),
        [("acme".to_owned(), Role::Owner)]
    );
}
