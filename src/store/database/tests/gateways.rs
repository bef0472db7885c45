//! The gateways that share a database.

use super::fixture::Fixture;
use crate::policy::time::UnixTime;
use crate::store::database::{GatewayIdentity, GatewayReport, SeenGateway};

fn report(name: &str, revision: Option<u64>) -> GatewayReport {
    GatewayReport {
        gateway: GatewayIdentity {
            name: name.to_owned(),
            instance: format!("instance of {name}"),
            started_at: UnixTime::from_seconds(1_800_000_000),
        },
        version: "0.1.0".to_owned(),
        revision,
        database_behind: false,
        lag_ms: Some(12),
        in_flight: 3,
    }
}

/// The gateway of this name reported so many seconds before it did.
fn set_back(fixture: &Fixture, name: &str, seconds: i64) {
    fixture.edit(&format!(
        "UPDATE gateways SET seen_at = seen_at - INTERVAL '{seconds} seconds' WHERE name = '{name}'"
    ));
}

#[test]
fn each_gateway_is_listed_with_its_last_report_and_its_age_by_the_servers_clock() {
    let fixture = Fixture::postgres();
    let database = fixture.open("one");
    assert_eq!(database.gateways().unwrap().unwrap().gateways, []);
    for name in ["b", "a", "c"] {
        database.report_gateway(&report(name, None)).unwrap();
    }
    let list = database.gateways().unwrap().unwrap();
    assert_eq!(list.revision, None);
    fixture.edit("UPDATE revisions SET value = 9 WHERE name = 'keys'");
    let last = GatewayReport {
        lag_ms: None,
        in_flight: 0,
        ..report("a", Some(8))
    };
    database.report_gateway(&last).unwrap();
    set_back(&fixture, "b", 11);
    set_back(&fixture, "c", 8);
    let list = database.gateways().unwrap().unwrap();
    assert_eq!((list.revision, list.seen()), (Some(9), 2));
    let reports: Vec<&GatewayReport> = list.gateways.iter().map(|seen| &seen.report).collect();
    assert_eq!(reports, [&last, &report("b", None), &report("c", None)]);
    let seen: Vec<bool> = list.gateways.iter().map(SeenGateway::is_seen).collect();
    assert_eq!(seen, [true, false, true]);
    assert!(list.gateways[1].unseen_ms >= 11_000);
    let now: i64 = fixture
        .query("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS BIGINT)")
        .parse()
        .unwrap();
    assert!((now - 30..=now).contains(&list.gateways[0].seen_at.seconds()));
}

#[test]
fn a_gateway_is_behind_where_it_is_seen_and_has_not_the_revision() {
    let fixture = Fixture::postgres();
    let database = fixture.open("one");
    for (name, revision) in [
        ("ahead", Some(9)),
        ("at", Some(8)),
        ("behind", Some(7)),
        ("file", None),
        ("gone", Some(7)),
        ("this", Some(7)),
    ] {
        database.report_gateway(&report(name, revision)).unwrap();
    }
    let other_history = GatewayReport {
        database_behind: true,
        ..report("other history", Some(9))
    };
    database.report_gateway(&other_history).unwrap();
    set_back(&fixture, "gone", 11);
    let list = database.gateways().unwrap().unwrap();
    assert_eq!(
        list.behind(8, "instance of this"),
        ["behind", "file", "other history"]
    );
    assert_eq!(
        list.behind(7, "instance of this"),
        ["file", "other history"]
    );
}

#[test]
fn a_gateway_is_forgotten_after_a_day_and_when_it_leaves_for_good() {
    let fixture = Fixture::postgres();
    let (database, other) = (fixture.open("one"), fixture.open("two"));
    for name in ["old", "new", "this"] {
        database.report_gateway(&report(name, None)).unwrap();
    }
    set_back(&fixture, "old", 86_401);
    set_back(&fixture, "new", 86_000);
    other.report_gateway(&report("other", None)).unwrap();
    let names = || {
        let list = other.gateways().unwrap().unwrap();
        let names = list.gateways.into_iter();
        names
            .map(|seen| seen.report.gateway.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(), ["new", "other", "this"]);
    database.leave_gateways("instance of this").unwrap();
    assert_eq!(names(), ["new", "other"]);
    // A report that was under way when it left.
    database.report_gateway(&report("this", None)).unwrap();
    assert_eq!(names(), ["new", "other"]);
}

#[test]
fn reports_of_many_gateways_at_once_do_not_hold_each_other_up() {
    let fixture = Fixture::postgres();
    let database = fixture.open("one");
    for number in 0..20 {
        let name = format!("old {number}");
        database.report_gateway(&report(&name, None)).unwrap();
        set_back(&fixture, &name, 86_401);
    }
    std::thread::scope(|scope| {
        for gateway in 0..8 {
            let fixture = &fixture;
            scope.spawn(move || {
                let database = fixture.open(&format!("w{gateway}"));
                for revision in 0..20 {
                    let report = report(&format!("new {gateway}"), Some(revision));
                    database.report_gateway(&report).unwrap();
                }
            });
        }
    });
    let list = database.gateways().unwrap().unwrap();
    assert_eq!((list.gateways.len(), list.seen()), (8, 8));
    assert_eq!(list.behind(19, ""), [""; 0]);
}

#[test]
fn a_file_of_sqlite_has_no_list() {
    let fixture = Fixture::sqlite();
    let database = fixture.open("one");
    database.report_gateway(&report("a", None)).unwrap();
    assert_eq!(database.gateways().unwrap(), None);
    database.leave_gateways("instance of a").unwrap();
}
