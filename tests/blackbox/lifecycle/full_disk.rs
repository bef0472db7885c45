//! On a full disk, a key that is taken back is still refused at once, and a log that cannot be written stops no request.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::support::client::{Call, Client};
use crate::support::gateway::{Setup, serve_in};
use crate::support::recorder::Recorder;
use crate::support::small_disk::SmallDisk;
use crate::support::token::{Key, key_file};
use crate::support::{DEADLINE, assert_error, eventually};

#[test]
fn on_a_full_disk_taking_a_key_back_is_in_force_at_once_and_written_once_there_is_room() {
    let Some(disk) = SmallDisk::mounted("256k") else {
        return;
    };
    let (gone, kept) = (Key::all("key_gone"), Key::all("key_kept"));
    let file = disk.path("keys.jsonl");
    fs::write(&file, key_file(&[gone.clone(), kept.clone()])).expect("written");
    let up = Recorder::answering();
    let gateway = Setup::before(&up)
        .set("keys", &format!("file = {:?}", file.display().to_string()))
        .start();
    let filler = disk.fill();
    let before = fs::read(&file).expect("the key file");
    let asks = |key: &Key| gateway.ask(&Call::chat(&key.token, "good"));

    let made = json!({"name": "new", "model_access": {"mode": "all"}});
    let refused = gateway.admin("POST", "/api/keys", Some(&made));
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert_eq!(refused.json()["in_force"], false, "{}", refused.text());
    let deleted = gateway.admin("DELETE", "/api/keys/key_gone", None);
    assert_eq!(deleted.status, 507, "{}", deleted.text());
    assert_eq!(deleted.json()["in_force"], true, "{}", deleted.text());
    assert_error(&asks(&gone), 401, "invalid_api_key");
    assert_eq!(asks(&kept).status, 200);
    assert_eq!(fs::read(&file).expect("the key file"), before);
    assert_eq!(names_beside(&file), ["filler", "keys.jsonl"]);
    // A reload of the old file does not bring it back.
    assert_eq!(gateway.reload().status, 200);
    assert_error(&asks(&gone), 401, "invalid_api_key");

    fs::remove_file(filler).expect("there is room");
    eventually("the deletion is written", DEADLINE, || {
        let text = fs::read_to_string(&file).expect("the key file");
        (!text.contains("key_gone") && text.contains("key_kept")).then_some(())
    });
    gateway.admin_json("POST", "/api/keys", Some(&made));
}

fn names_beside(file: &Path) -> Vec<String> {
    let folder = file.parent().expect("a folder");
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("the folder")
        .flatten()
        .map(|found| found.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_log_on_a_full_disk_stops_no_request_and_goes_on_once_there_is_room() {
    let Some(disk) = SmallDisk::mounted("256k") else {
        return;
    };
    let up = Recorder::answering();
    let key = Key::all("key_all");
    let setup = Setup::before(&up).keys(&[&key]);
    setup.write();
    let log = disk.path("log");
    let mut command = serve_in(setup.path("").as_path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(
        File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log"),
    );
    let mut child = command.spawn().expect("keygate is started");
    let text = || String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    let address = eventually("it listens", DEADLINE, || {
        let text = text();
        let line = text.lines().find(|line| line.contains("\"listening\""))?;
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        line["address"].as_str()?.parse().ok()
    });
    let call = Call::chat(&key.token, "good");
    let mut client = eventually("it is ready", DEADLINE, || {
        let mut client = Client::connect(address);
        (client.ask(&call).status == 200).then_some(client)
    });
    let filler = disk.fill();
    for _ in 0..2000 {
        assert_eq!(client.ask(&call).status, 200);
    }
    fs::remove_file(filler).expect("there is room");
    eventually("lines are written again", DEADLINE, || {
        let id = "after-the-disk-was-full";
        let response = client.ask(&call.clone().header("x-request-id", id));
        assert_eq!(response.status, 200);
        std::thread::sleep(Duration::from_millis(20));
        text().contains(id).then_some(())
    });
    child.kill().expect("killed");
    child.wait().expect("a status");
}
