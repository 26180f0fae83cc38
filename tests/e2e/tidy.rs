//! The rules of the house that no lint expresses, held against the source tree.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Our Rust files, with their paths from the root.
fn rust_files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders: Vec<_> = ["proto", "services", "tests"].map(|name| root().join(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("fuzz/target") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                files.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(files.len() > 50, "the source tree was not found");
    files
}

/// Fails with every file that breaks a rule.
fn no_file(what: &str, breaks: impl Fn(&str, &str) -> bool) {
    let files = rust_files();
    let bad: Vec<_> = files.iter().filter(|(n, t)| breaks(n, t)).map(|(n, _)| n).collect();
    assert!(bad.is_empty(), "{what}: {bad:?}");
}

/// Whether a file lies in one of these rooms; this file, which names everything, lies in all.
fn is_in(name: &str, rooms: &[&str]) -> bool {
    name == "tests/e2e/tidy.rs" || rooms.iter().any(|room| name.starts_with(room))
}

#[test]
fn files_are_short() {
    no_file("more than 400 lines", |_, text| text.lines().count() > 400);
}

#[test]
fn files_say_what_they_are() {
    no_file("does not begin with //!", |_, text| !text.starts_with("//! "));
}

#[test]
fn nothing_is_left_to_do_or_skipped() {
    let marks = ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "#[ignore"];
    no_file("unfinished or skipped", |name, text| {
        name != "tests/e2e/tidy.rs" && marks.iter().any(|mark| text.contains(mark))
    });
}

#[test]
fn sql_stays_in_storage() {
    let rooms = [
        "services/telemetry-store/src/storage/",
        "tests/harness/audit.rs",
        "tests/harness/bed.rs",
        "tests/harness/cluster.rs",
        "tests/harness/postgres.rs",
        "tests/e2e/",
    ];
    no_file("sqlx outside storage", |name, text| text.contains("sqlx") && !is_in(name, &rooms));
}

#[test]
fn mqtt_stays_in_the_source() {
    let rooms = ["services/mqtt-bridge/src/source"];
    no_file("rumqttc outside source", |name, text| {
        text.contains("rumqttc") && !is_in(name, &rooms)
    });
    let rooms =
        ["services/dev-stack/src/broker.rs", "services/telemetry-cli/src/simulate/publisher.rs"];
    no_file("mqtt5 outside its files", |name, text| {
        text.contains("mqtt5::") && !is_in(name, &rooms)
    });
}

#[test]
fn wire_types_stay_at_the_edge() {
    let rooms = [
        "proto/",
        "services/telemetry-store/src/grpc/",
        "services/telemetry-store/tests/",
        "services/mqtt-bridge/src/uplink",
        "services/telemetry-cli/",
        "tests/",
    ];
    no_file("wire types inside", |name, text| {
        text.contains("telemetry_proto::v1") && !is_in(name, &rooms)
    });
}

#[test]
fn statuses_are_made_in_one_file_and_at_the_door() {
    let room = ["services/telemetry-store/src/grpc/status.rs", "services/kit/src/auth/status.rs"];
    let made = [
        "Status::with_details",
        "Status::with_metadata",
        "Status::with_error_details",
        "Self::with_error_details",
    ];
    no_file("a Status is made", |name, text| {
        made.iter().any(|made| text.contains(made)) && !is_in(name, &room)
    });
}

#[test]
fn both_databases_have_the_same_migrations() {
    let names = |dialect: &str| -> BTreeSet<_> {
        let folder = root().join("migrations").join(dialect);
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!(names("postgres"), names("sqlite"));
}

#[test]
fn bridge_and_store_do_not_know_each_other() {
    for (service, other) in [("mqtt-bridge", "telemetry-store"), ("telemetry-store", "mqtt-bridge")]
    {
        let manifest = root().join("services").join(service).join("Cargo.toml");
        assert!(!fs::read_to_string(manifest).unwrap().contains(&format!("{other}.workspace")));
    }
}

#[test]
fn members_take_their_versions_from_the_workspace() {
    let mut manifests = vec![root().join("proto/Cargo.toml"), root().join("tests/Cargo.toml")];
    let services = fs::read_dir(root().join("services")).unwrap();
    manifests.extend(services.map(|entry| entry.unwrap().path().join("Cargo.toml")));
    for manifest in manifests.into_iter().filter(|manifest| manifest.exists()) {
        let text = fs::read_to_string(&manifest).unwrap();
        assert!(text.contains("[lints]\nworkspace = true"), "{}: lints", manifest.display());
        let (_, dependencies) = text.split_once("dependencies]").unwrap();
        for line in dependencies.lines().filter(|line| line.contains(" = \"")) {
            assert!(line.starts_with("path"), "{}: {line}", manifest.display());
        }
    }
}
