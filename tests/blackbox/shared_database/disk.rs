//! The database server's disk is full: requests go on, what is taken away is dead at once, and all is written when there is room.

use super::keys::{Made, becomes, is_in, make, setup, status};
use crate::postgres::{self, TestServer};
use crate::support::gateway::Gateway;
use crate::support::recorder::Recorder;
use crate::support::small_disk::SmallDisk;
use crate::support::{DEADLINE, eventually};

#[test]
fn on_a_full_disk_of_the_database_deleted_keys_are_dead_and_nothing_is_lost() {
    let Some(disk) = SmallDisk::mounted("40m") else {
        return;
    };
    let server = TestServer::start();
    let tables = disk.path("tables");
    std::fs::create_dir(&tables).unwrap();
    postgres::give_to_server(&tables);
    let tables = tables.display();
    server.query(
        "postgres",
        &format!("CREATE TABLESPACE small LOCATION '{tables}'"),
    );
    server.query("postgres", "CREATE DATABASE usage TABLESPACE small");
    let up = Recorder::answering();
    let [one, two] = [(); 2].map(|()| setup(&server, &up).start());
    let kept = make(&one, "kept");
    let doomed: Vec<Made> = (0..12).map(|n| make(&one, &format!("n{n}"))).collect();
    becomes(&two, doomed.last().unwrap(), 200);
    for gateway in [&one, &two] {
        assert_eq!(status(gateway, &kept), 200);
    }
    let filler = disk.fill();
    let delete = |key: &Made| {
        let answer = one.admin("DELETE", &format!("/api/keys/{}", key.id), None);
        assert_eq!(status(&one, key), 401, "{}", answer.text());
        answer.status
    };
    let answers: Vec<u16> = doomed.iter().map(delete).collect();
    // Where there is room left in a page of the tables it is written; otherwise it is kept until there is room.
    assert!(
        answers.iter().all(|status| [204, 507].contains(status)),
        "{answers:?}"
    );
    assert!(answers.contains(&507), "{answers:?}");
    let uses = |gateway: &Gateway| assert_eq!(status(gateway, &kept), 200);
    (0..50).for_each(|_| [&one, &two].into_iter().for_each(uses));

    std::fs::remove_file(filler).unwrap();
    eventually("nothing is pending", DEADLINE, || {
        let status = one.admin_json("GET", "/api/status", None);
        (status["unwritten_changes"] == 0).then_some(())
    });
    for gateway in [&one, &two] {
        is_in(gateway, "in_sync");
    }
    for key in &doomed {
        becomes(&two, key, 401);
        assert_eq!(status(&one, key), 401);
    }
    let id = &kept.id;
    let written = format!(
        "SELECT count(*), count(DISTINCT request_id), (SELECT requests FROM key_uses WHERE key_id = '{id}') \
         FROM usage_records WHERE key_id = '{id}'"
    );
    eventually("all is counted, once", DEADLINE, || {
        (server.query("usage", &written) == "102|102|102").then_some(())
    });
}
