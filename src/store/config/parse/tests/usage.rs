//! The database, usage and prices.

use super::*;
use crate::policy::price::Price;
use crate::store::config::Engine;
use crate::store::database::SpoolConfig;

/// Reads a config where a variable has this value.
fn with_variable(text: &str, url: &str) -> ParsedConfig {
    let folder = Folder::new();
    let file = folder.put("keygate.toml", format!("{text}{UPSTREAM}"));
    read_with(Some(&file), &Overrides::default(), &|name| {
        (name == "KEYGATE_DATABASE_URL").then(|| url.into())
    })
}

#[test]
fn every_field_about_usage_can_be_set() {
    let config = config_of(
        r#"
        [database]
        url = "sqlite:/var/lib/keygate/usage.db"
        [usage]
        records = "0"
        sums = "36h"
        currency = "credits"
        [audit]
        keep = "90d"
        [[prices]]
        model = "a"
        input = 0.20
        input_cached = 0.05
        output = 0.600_001
        audio_minute = 0.006
        image = 4
        [[prices]]
        model = "b"
        output = "0.1"
        [[upstreams]]
        name = "one"
        url = "http://127.0.0.1:8000"
        usage = "running"
        engine = "llama.cpp"
        [[upstreams]]
        name = "two"
        url = "http://127.0.0.1:8001"
        usage = "read"
        "#,
    );
    let path = PathBuf::from("/var/lib/keygate/usage.db");
    assert_eq!(config.database, Some(DatabaseUrl::Sqlite(path)));
    assert_eq!(
        config.usage,
        UsageConfig {
            records: 0,
            sums: 36 * 3_600,
            currency: "credits".to_owned(),
            time_zone: jiff::tz::TimeZone::UTC,
            spool: None,
        }
    );
    assert_eq!(config.audit.keep, 90 * 86_400);
    let price = |text| Price::parse(text).unwrap();
    assert_eq!(
        config.prices,
        [
            ModelPrice {
                model: "a".to_owned(),
                input: price("0.20"),
                input_cached: Some(price("0.05")),
                output: price("0.600001"),
                audio_minute: price("0.006"),
                image: price("4"),
                default_output_tokens: None,
            },
            ModelPrice {
                model: "b".to_owned(),
                input: price("0"),
                input_cached: None,
                output: price("0.1"),
                audio_minute: price("0"),
                image: price("0"),
                default_output_tokens: None,
            }
        ]
    );
    let learned: Vec<_> = config
        .upstreams
        .iter()
        .map(|upstream| (upstream.usage, upstream.engine))
        .collect();
    assert_eq!(
        learned,
        [
            (UsageMode::Running, Some(Engine::LlamaCpp)),
            (UsageMode::Read, None)
        ]
    );
}

#[test]
fn the_spool_is_beside_the_key_file_and_only_with_postgresql() {
    let spool = |text: &str| {
        config_of(&format!(
            "[database]\nurl = \"postgres://a@localhost/b\"\n[keys]\nfile = \"/k/keys.jsonl\"\n{text}{UPSTREAM}"
        ))
        .usage
        .spool
        .unwrap()
    };
    let of = |folder: &str, max_bytes| SpoolConfig {
        folder: folder.into(),
        max_bytes,
    };
    assert_eq!(spool(""), of("/k/usage-spool", 256 << 20));
    let set = "[usage]\nspool = \"/s\"\nspool_max = \"4GiB\"\n";
    assert_eq!(spool(set), of("/s", 4 << 30));
    for name in ["spool = \"/s\"", "spool_max = \"1GiB\""] {
        let field = name.split(' ').next().unwrap();
        let text = format!("[usage]\n{name}\n");
        assert_fault(&text, 2, &format!("usage.{field}"), "is for PostgreSQL");
    }
    for size in ["1023KiB", "5GiB"] {
        let text = format!(
            "[database]\nurl = \"postgres://a@localhost/b\"\n[usage]\nspool_max = \"{size}\"\n"
        );
        assert_fault(&text, 4, "usage.spool_max", "out of bounds");
    }
}

#[test]
fn a_price_is_read_from_its_digits_and_not_from_a_rounded_number() {
    // The nearest number of 64 bits has other digits.
    let config = config_of(&format!(
        "[[prices]]\nmodel = \"a\"\ninput = 123456.000000000001{UPSTREAM}"
    ));
    let exact = Price::parse("123456.000000000001").unwrap();
    assert_eq!(config.prices[0].input, exact);
}

#[test]
fn no_database_is_an_empty_url() {
    let config = config_of(&format!("[database]\nurl = \"\"{UPSTREAM}"));
    assert_eq!(config.database, None);
}

#[test]
fn a_gateway_has_the_name_of_its_host_unless_it_has_another() {
    let host = rustix::system::uname();
    let folder = Folder::new();
    let config_of = |text: &str| folder.read(text, &Overrides::default()).config.unwrap();
    let config = config_of(UPSTREAM);
    assert_eq!(config.gateway_name, host.nodename().to_str().unwrap());
    let named = |name: &str| format!("[database]\ngateway_name = \"{name}\"\n{UPSTREAM}");
    for name in ["e", "eu-1.example", &"n".repeat(64)] {
        assert_eq!(config_of(&named(name)).gateway_name, name);
    }
    assert_eq!(
        restart_needed(&config, &config_of(&named("eu-1"))),
        ["database.gateway_name"]
    );
    for name in ["", "eu 1", "eu\\t1", "caf\u{e9}", &"n".repeat(65)] {
        let text = format!("[database]\ngateway_name = \"{name}\"\n");
        let part = "1 to 64 visible ASCII characters";
        assert_fault(&text, 2, "database.gateway_name", part);
    }
}

#[test]
fn the_environment_names_another_database_than_the_file() {
    let config = with_variable("[database]\nurl = \"sqlite:a\"", "sqlite:/b").config;
    assert_eq!(
        config.unwrap().database,
        Some(DatabaseUrl::Sqlite("/b".into()))
    );
    let config = with_variable("", "").config;
    assert_eq!(config.unwrap().database, None);
    let faults = with_variable("", "mysql://secret@host").config.unwrap_err();
    assert_one(&faults[0], 0, "$KEYGATE_DATABASE_URL", "sqlite:FILE");
    assert!(!faults[0].message.contains("secret"));
}

#[test]
fn a_postgresql_database_has_its_password_in_a_file_and_its_audit_key_beside_the_config() {
    let folder = Folder::new();
    folder.put("password", "word\n");
    let text = format!(
        "[database]\nurl = \"postgres://keygate@db.example.com/usage\"\npassword_file = \"password\"\n{UPSTREAM}"
    );
    let config = folder.read(&text, &Overrides::default()).config.unwrap();
    let Some(DatabaseUrl::Postgres(url)) = &config.database else {
        panic!("{:?}", config.database);
    };
    assert_eq!(url.password.as_deref().map(String::as_str), Some("word"));
    assert_eq!(config.audit.key_file, folder.0.path().join("audit.key"));
    assert!(!format!("{config:?}").contains("word\""));
    let faults = |text: &str| {
        let text = format!("[database]\n{text}\n{UPSTREAM}");
        let reading = folder.read(&text, &Overrides::default());
        reading.config.unwrap_err()
    };
    let missing = faults("url = \"postgres://a@localhost/c\"\npassword_file = \"x\"");
    assert_one(&missing[0], 3, "database.password_file", "cannot be read");
    let twice = faults("url = \"postgres://a:b@localhost/c\"\npassword_file = \"password\"");
    assert_one(
        &twice[0],
        3,
        "database.password_file",
        "take it out of the url",
    );
    let roots = faults("url = \"postgres://a@h/c?sslmode=require&sslrootcert=missing.pem\"");
    assert_one(&roots[0], 2, "database.url", "missing.pem");
    let config = config_of(&format!("[audit]\nkey_file = \"/k\"\n{UPSTREAM}"));
    assert_eq!(config.audit.key_file, PathBuf::from("/k"));
}

#[test]
fn faults_about_usage_name_line_field_and_remedy() {
    for (text, line, field, part) in [
        (
            "[database]\nurl = \"keygate.db\"\n",
            2,
            "database.url",
            "write \"sqlite:FILE\"",
        ),
        (
            "[database]\nurl = \"sqlite:\"\n",
            2,
            "database.url",
            "name a file",
        ),
        (
            "[database]\nurl = \"postgres://a:secret@b\"\n",
            2,
            "database.url",
            "names no database",
        ),
        (
            "[database]\npassword_file = \"x\"\n",
            2,
            "database.password_file",
            "remove it",
        ),
        (
            "[database]\nfile = \"x\"\n",
            2,
            "database.file",
            "is not a field",
        ),
        (
            "[usage]\nrecords = \"30\"\n",
            2,
            "usage.records",
            "like \"30d\"",
        ),
        (
            "[usage]\nrecords = 30\n",
            2,
            "usage.records",
            "in double quotes",
        ),
        (
            "[usage]\nrecords = \"d\"\n",
            2,
            "usage.records",
            "like \"30d\"",
        ),
        (
            "[usage]\nrecords = \"99999999999999999999d\"\n",
            2,
            "usage.records",
            "at most",
        ),
        ("[usage]\nsums = \"0\"\n", 2, "usage.sums", "\"1d\" or more"),
        (
            "[usage]\nsums = \"5h\"\n",
            2,
            "usage.sums",
            "\"1d\" or more",
        ),
        ("[audit]\nkeep = \"0\"\n", 2, "audit.keep", "\"1d\" or more"),
        ("[audit]\nkeep = \"3661d\"\n", 2, "audit.keep", "at most"),
        ("[audit]\nkept = \"9d\"\n", 2, "audit.kept", "keep"),
        ("[usage]\nsums = \"3661d\"\n", 2, "usage.sums", "at most"),
        (
            "[usage]\ncurrency = \"\"\n",
            2,
            "usage.currency",
            "write a name",
        ),
        (
            "[usage]\ncurrency = \"a currency without end\"\n",
            2,
            "usage.currency",
            "short name",
        ),
        (
            "[[prices]]\ninput = 1\n",
            1,
            "prices[0].model",
            "is missing",
        ),
        (
            "[[prices]]\nmodel = \"a\"\n",
            1,
            "prices[0].input",
            "set a price",
        ),
        (
            "[[prices]]\nmodel = \"a\"\ninput = -0.1\n",
            3,
            "prices[0].input",
            "like 0.20",
        ),
        (
            "[[prices]]\nmodel = \"a\"\ninput = 1e-3\n",
            3,
            "prices[0].input",
            "like 0.20",
        ),
        (
            "[[prices]]\nmodel = \"a\"\nimage = inf\n",
            3,
            "prices[0].image",
            "like 0.20",
        ),
        (
            "[[prices]]\nmodel = \"a\"\noutput = true\n",
            3,
            "prices[0].output",
            "is a boolean",
        ),
        (
            "[[prices]]\nmodel = \"a\"\noutput = 1000001\n",
            3,
            "prices[0].output",
            "lower price",
        ),
        (
            "[[prices]]\nmodel = \"a\"\noutput = 0.0000000000001\n",
            3,
            "prices[0].output",
            "12 digits",
        ),
        (
            "[[prices]]\nmodel = \"a\"\ninput = 1\n[[prices]]\nmodel = \"a\"\ninput = 2\n",
            5,
            "prices[1].model",
            "has a price in line 2 already",
        ),
        (
            "[[prices]]\nmodel = \"a\"\ninput = 1\ncached = 1\n",
            4,
            "prices[0].cached",
            "not a field",
        ),
        ("[prices]\nmodel = \"a\"\n", 1, "prices", "[[prices]]"),
    ] {
        let faults = faults_of(format!("{text}{UPSTREAM}"));
        assert_eq!(faults.len(), 1, "{text}: {faults:?}");
        assert_one(&faults[0], line, field, part);
        assert!(!faults[0].message.contains("secret"), "{text}");
    }
    for (text, part) in [
        ("usage = \"on\"", "\"running\""),
        ("engine = \"tgi\"", "\"vllm\""),
    ] {
        let faults = faults_of(format!("{UPSTREAM}{text}\n"));
        let field = format!("upstreams[0].{}", text.split(' ').next().unwrap());
        assert_one(&faults[0], 5, &field, part);
    }
}

#[test]
fn a_reload_takes_prices_without_the_other_parts_and_the_rest_needs_a_restart() {
    let folder = Folder::new();
    let prices = "[[prices]]\nmodel = \"a\"\ninput = 1\n";
    let reading = folder.read(
        format!("workers = true\n{prices}{UPSTREAM}"),
        &Overrides::default(),
    );
    assert_eq!(reading.prices.unwrap().len(), 1);
    let reading = folder.read(format!("[[prices]]\n{UPSTREAM}"), &Overrides::default());
    assert_eq!(reading.prices.unwrap_err().len(), 2);
    let read = |text: &str| {
        folder
            .read(format!("{text}{UPSTREAM}"), &Overrides::default())
            .config
            .unwrap()
    };
    let old = read("");
    assert!(restart_needed(&old, &read(prices)).is_empty());
    assert_eq!(
        restart_needed(
            &old,
            &read(
                "[database]\nurl = \"\"\n[usage]\nrecords = \"1d\"\nsums = \"2d\"\ncurrency = \"USD\"\n[audit]\nkeep = \"1d\"\n"
            )
        ),
        [
            "database.url",
            "usage.records",
            "usage.sums",
            "usage.currency",
            "audit.keep"
        ]
    );
}

#[test]
fn a_price_of_a_model_that_no_upstream_serves_is_a_warning() {
    let warned = |models: &str, more: &str| -> Vec<String> {
        let prices: String = ["served", "alias", "misspelt"]
            .map(|model| format!("[[prices]]\nmodel = \"{model}\"\ninput = 1\n"))
            .concat();
        let config = config_of(&format!("{prices}{UPSTREAM}{models}{more}"));
        let warnings = config.warnings().into_iter();
        warnings.map(|fault| fault.field).collect()
    };
    let listed = "models = [\"served\"]\naliases = { \"alias\" = \"served\" }\n";
    assert_eq!(warned(listed, ""), ["prices[2].model"]);
    let other = "[[upstreams]]\nname = \"other\"\nurl = \"http://127.0.0.1:8001\"\n";
    let serving = format!("{other}models = [\"misspelt\"]\n");
    assert_eq!(warned(listed, &serving), [""; 0]);
    // What an upstream serves that is asked for its models is not known.
    assert_eq!(warned(listed, other), [""; 0]);
    assert_eq!(warned("", ""), [""; 0]);
}
