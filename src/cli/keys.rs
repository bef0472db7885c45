//! `keygate keys …`

use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;

use http::Method;
use serde_json::{Map, Value, json};

use crate::cli::arguments::{AllowFromArg, BudgetArg, ExpiryArg};
use crate::cli::client::{Client, ClientResponse, IfMissing};
use crate::cli::command_error::CommandError;
use crate::cli::key_transfer;
use crate::cli::output::{self, escaped, print, print_line};
use crate::cli::{
    AccessMode, CreateArgs, DeleteArgs, KeyArgs, KeyChangeArgs, KeysCommand, ListArgs, RotateArgs,
    RuleArgs, UpdateArgs, WaitArgs,
};
use crate::policy::key::KeyId;
use crate::policy::key_limits::LimitKind;
use crate::policy::time::UnixTime;
use crate::policy::token::Presented;
use crate::runtime::wall_clock::now;

/// Keys per call.
const PAGE: usize = 1000;

pub(super) fn run(command: &KeysCommand) -> Result<ExitCode, CommandError> {
    match command {
        KeysCommand::Create(args) => create(args),
        KeysCommand::List(args) => list(args),
        KeysCommand::Show(args) => show(args),
        KeysCommand::Update(args) => update(args),
        KeysCommand::Disable(args) => switch(args, true),
        KeysCommand::Enable(args) => switch(args, false),
        KeysCommand::Rotate(args) => rotate(args),
        KeysCommand::ExpirePrevious(args) => expire_previous(args),
        KeysCommand::Delete(args) => delete(args),
        KeysCommand::Import(args) => key_transfer::import(args),
        KeysCommand::Export(args) => key_transfer::export(args),
        KeysCommand::Hash => hash(),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn create(args: &CreateArgs) -> Result<(), CommandError> {
    let mode = args.rules.model_access.unwrap_or(AccessMode::All);
    let mut body = args.rules.fields(Some(mode))?;
    body.insert("name".to_owned(), args.name.as_str().into());
    body.retain(|_, value| !value.is_null());
    let client = Client::of_keys(&args.place, IfMissing::Create)?;
    let call = (&Method::POST, "/api/keys");
    let (answer, waited) = client.change_keys(call, Some(&body.into()), None, &args.wait)?;
    if !answer.print_json()? {
        print_token(&answer.value()?, "")?;
    }
    waited.check()
}

/// Prints a key's new token, and a last line.
fn print_token(created: &Value, last: &str) -> Result<(), CommandError> {
    for warning in created["warnings"].as_array().into_iter().flatten() {
        eprintln!("keygate: warning: {}", text(warning));
    }
    print(format!(
        "Key: {}\nOpenAI Compatible URL: {}\nBearer Token: {}\n{last}",
        text(&created["key"]["id"]),
        text(&created["url"]),
        text(&created["token"]),
    ))
}

fn list(args: &ListArgs) -> Result<(), CommandError> {
    let client = Client::of_keys(&args.place, IfMissing::Fail)?;
    if client.wants_json() {
        return list_json(&client, args);
    }
    let mut rows = Vec::new();
    let first_page = first_page(args);
    let mut target = first_page.clone();
    loop {
        let page = client.call(&Method::GET, &target, None)?.value()?;
        rows.extend(page["keys"].as_array().into_iter().flatten().map(row));
        match page["next"].as_str() {
            Some(next) => target = format!("{first_page}&after={next}"),
            None => break,
        }
    }
    let headings = [
        "ID",
        "NAME",
        "MODEL ACCESS",
        "ALLOW FROM",
        "EXPIRES",
        "STATE",
        "LAST USED",
        "HINT",
        "PREVIOUS TOKEN",
    ];
    print(output::table(headings, rows))
}

fn first_page(args: &ListArgs) -> String {
    match &args.unused_for {
        Some(span) => format!("/api/keys?limit={PAGE}&unused_for={span}"),
        None => format!("/api/keys?limit={PAGE}"),
    }
}

/// Prints all pages as one JSON object. Copies the text of each page, so memory stays small with a million keys.
fn list_json(client: &Client, args: &ListArgs) -> Result<(), CommandError> {
    let first_page = first_page(args);
    let mut target = first_page.clone();
    let mut separator = "{\"keys\":[";
    loop {
        let answer = client.call(&Method::GET, &target, None)?;
        let (keys, next) = parts_of_page(&answer)
            .ok_or_else(|| CommandError::Refused("the answer is no page of keys".to_owned()))?;
        if !keys.is_empty() || separator.starts_with('{') {
            print([separator, keys].concat())?;
            separator = if keys.is_empty() { separator } else { "," };
        }
        match next {
            Some(next) => target = format!("{first_page}&after={next}"),
            None => return print_line("],\"next\":null}"),
        }
    }
}

/// The text between the brackets of `{"keys":[…],"next":…}`, and the cursor of the next page.
fn parts_of_page(answer: &ClientResponse) -> Option<(&str, Option<&str>)> {
    let page = std::str::from_utf8(answer.bytes()).ok()?;
    let (keys, next) = page
        .strip_prefix("{\"keys\":[")?
        .strip_suffix('}')?
        .rsplit_once("],\"next\":")?;
    let next = next
        .strip_prefix('"')
        .and_then(|next| next.strip_suffix('"'));
    Some((keys, next))
}

fn show(args: &KeyArgs) -> Result<(), CommandError> {
    let client = Client::of_keys(&args.place, IfMissing::Fail)?;
    let answer = client.call(&Method::GET, &path_of(&args.id), None)?;
    if answer.print_json()? {
        return Ok(());
    }
    print_key(&answer.value()?)
}

fn update(args: &UpdateArgs) -> Result<(), CommandError> {
    let path = path_of(&args.id);
    if args.reset_budget && args.name.is_none() && args.rules.are_unnamed() {
        let client = Client::of_keys(&args.place, IfMissing::Fail)?;
        reset_budgets(&client, &path)?;
        let answer = client.call(&Method::GET, &path, None)?;
        return match answer.print_json()? {
            true => Ok(()),
            false => print_key(&answer.value()?),
        };
    }
    if args.name.is_none() && args.rules.are_unnamed() {
        return Err(CommandError::Usage(
            "nothing is to change; name a field, like --name or --expires".to_owned(),
        ));
    }
    let client = Client::of_keys(&args.place, IfMissing::Fail)?;
    let mode = match args.rules.model_access {
        // Only the models change; the mode stays.
        None if !args.rules.models.is_empty() => {
            let key = client.call(&Method::GET, &path, None)?.value()?;
            Some(mode_of(&key))
        }
        mode => mode,
    };
    let mut body = args.rules.fields(mode)?;
    if let Some(name) = &args.name {
        body.insert("name".to_owned(), name.as_str().into());
    }
    if args.reset_budget {
        // After the change: what it adds begins anew too.
        let call = (&Method::PATCH, path.as_str());
        let (_, waited) = client.change_keys(call, Some(&body.into()), None, &args.wait)?;
        reset_budgets(&client, &path)?;
        let answer = client.call(&Method::GET, &path, None)?;
        if !answer.print_json()? {
            print_key(&answer.value()?)?;
        }
        return waited.check();
    }
    change(
        &client,
        (&Method::PATCH, &path),
        Some(&body.into()),
        &args.wait,
    )
}

fn reset_budgets(client: &Client, path: &str) -> Result<(), CommandError> {
    let target = format!("{path}/reset-budgets");
    client.call(&Method::POST, &target, None).map(drop)
}

fn switch(KeyChangeArgs { key, wait }: &KeyChangeArgs, disabled: bool) -> Result<(), CommandError> {
    let client = Client::of_keys(&key.place, IfMissing::Fail)?;
    let body = json!({ "disabled": disabled });
    change(
        &client,
        (&Method::PATCH, &path_of(&key.id)),
        Some(&body),
        wait,
    )
}

fn change(
    client: &Client,
    call: (&Method, &str),
    body: Option<&Value>,
    wait: &WaitArgs,
) -> Result<(), CommandError> {
    let (answer, waited) = client.change_keys(call, body, None, wait)?;
    if !answer.print_json()? {
        print_key(&answer.value()?)?;
    }
    waited.check()
}

fn rotate(args: &RotateArgs) -> Result<(), CommandError> {
    let path = path_of(&args.id);
    let client = Client::of_keys(&args.place, IfMissing::Fail)?;
    // With --now every old token is meant to end.
    let mut seen = None;
    if !args.yes && !args.now {
        let key = client.call(&Method::GET, &path, None)?.value()?;
        // Somebody else's rotation in between would make the question the wrong one.
        seen = key["revision"].as_str().map(str::to_owned);
        if let Some(end) = previous_end(&key) {
            let id = args.id.as_str();
            let older = format!(
                "the token of {id} from before its last rotation works until {end}, and would end at once"
            );
            let refused =
                |what: &str| CommandError::Refused(format!("nothing was rotated: {what}"));
            if !can_ask() {
                return Err(refused(&format!("{older}; add --yes where that is meant")));
            }
            if !is_meant(&format!("Now {older}. Rotate again?"))? {
                return Err(refused("it was not meant"));
            }
        }
    }
    let grace = if args.now { 0 } else { args.grace };
    let body = json!({ "grace_seconds": grace });
    let call = (&Method::POST, &*format!("{path}/rotate"));
    let (answer, waited) = client.change_keys(call, Some(&body), seen.as_deref(), &args.wait)?;
    if answer.print_json()? {
        return waited.check();
    }
    let rotated = answer.value()?;
    let last = match previous_end(&rotated["key"]) {
        Some(end) => format!("Previous Token: works until {end}\n"),
        None => "Previous Token: ended\n".to_owned(),
    };
    print_token(&rotated, &last)?;
    waited.check()
}

fn expire_previous(KeyChangeArgs { key, wait }: &KeyChangeArgs) -> Result<(), CommandError> {
    let client = Client::of_keys(&key.place, IfMissing::Fail)?;
    let path = format!("{}/expire-previous", path_of(&key.id));
    change(&client, (&Method::POST, &path), None, wait)
}

/// Until when a key's previous token works; None if it has ended, or the key has none.
fn previous_end(key: &Value) -> Option<UnixTime> {
    let end = UnixTime::parse(key["previous"]["not_after"].as_str()?).ok()?;
    (now() < end).then_some(end)
}

pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

fn delete(args: &DeleteArgs) -> Result<(), CommandError> {
    let path = path_of(&args.id);
    if !args.yes && !can_ask() {
        return Err(CommandError::Refused(format!(
            "nothing was deleted: there is no terminal to ask on whether {} is meant; add --yes where it is",
            args.id.as_str()
        )));
    }
    let client = Client::of_keys(&args.place, IfMissing::Fail)?;
    if !args.yes && !is_deletion_meant(&client, &path)? {
        return Err(CommandError::Refused("nothing was deleted".to_owned()));
    }
    let call = (&Method::DELETE, path.as_str());
    let (answer, waited) = client.change_keys(call, None, None, &args.wait)?;
    if !answer.print_json()? {
        print_line(format!("deleted {}", args.id.as_str()))?;
    }
    waited.check()
}

fn is_deletion_meant(client: &Client, path: &str) -> Result<bool, CommandError> {
    let key = client.call(&Method::GET, path, None)?.value()?;
    is_meant(&format!(
        "Delete {} ({})?",
        text(&key["id"]),
        text(&key["name"])
    ))
}

pub(super) fn is_meant(question: &str) -> Result<bool, CommandError> {
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| CommandError::System("standard input".to_owned(), error))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn hash() -> Result<(), CommandError> {
    let token = token_on_stdin()?;
    match Presented::parse(token.as_bytes()) {
        Some(token) => print_line(token.hash().to_string()),
        None => Err(CommandError::Input(
            "this is no token: it must be 1 to 512 visible ASCII characters, and one that begins with kg_ must be whole"
                .to_owned(),
        )),
    }
}

/// Reads a token from standard input, so that it appears in no process list and no shell history.
pub(super) fn token_on_stdin() -> Result<zeroize::Zeroizing<String>, CommandError> {
    if io::stdin().is_terminal() {
        eprint!("Bearer token: ");
    }
    let mut line = zeroize::Zeroizing::new(String::with_capacity(1024));
    let input = io::stdin().lock();
    io::Read::take(input, 1024)
        .read_line(&mut line)
        .map_err(|error| CommandError::System("standard input".to_owned(), error))?;
    let length = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(length);
    Ok(line)
}

impl RuleArgs {
    fn are_unnamed(&self) -> bool {
        let Self {
            model_access,
            models,
            allow_from,
            expires,
            account,
            requests_per_minute,
            tokens_per_minute,
            concurrent_requests,
            budgets,
        } = self;
        model_access.is_none()
            && models.is_empty()
            && allow_from.is_empty()
            && expires.is_none()
            && account.is_none()
            && requests_per_minute.is_none()
            && tokens_per_minute.is_none()
            && concurrent_requests.is_none()
            && budgets.is_empty()
    }

    /// The rules as the API expects them: an absent argument is left out, a cleared rule is null.
    fn fields(&self, mode: Option<AccessMode>) -> Result<Map<String, Value>, CommandError> {
        let mut fields = Map::new();
        if let Some(mode) = mode {
            fields.insert("model_access".to_owned(), access(mode, &self.models)?);
        }
        if !self.allow_from.is_empty() {
            fields.insert("allow_from".to_owned(), networks(&self.allow_from)?);
        }
        if let Some(expiry) = self.expires {
            let end = match expiry {
                ExpiryArg::Never => Value::Null,
                ExpiryArg::At(end) => end.to_string().into(),
            };
            fields.insert("expires_at".to_owned(), end);
        }
        if let Some(account) = &self.account {
            let account = Some(account.as_str()).filter(|account| !account.is_empty());
            fields.insert("account".to_owned(), account.into());
        }
        let limits: Map<String, Value> = [
            (LimitKind::RequestsPerMinute, self.requests_per_minute),
            (LimitKind::TokensPerMinute, self.tokens_per_minute),
            (LimitKind::ConcurrentRequests, self.concurrent_requests),
        ]
        .into_iter()
        .filter_map(|(kind, limit)| Some((kind.name().to_owned(), limit?.value())))
        .collect();
        if !limits.is_empty() {
            fields.insert("limits".to_owned(), limits.into());
        }
        if !self.budgets.is_empty() {
            fields.insert("budgets".to_owned(), budgets(&self.budgets)?);
        }
        Ok(fields)
    }
}

pub(super) fn access(mode: AccessMode, models: &[String]) -> Result<Value, CommandError> {
    match (mode, models) {
        (AccessMode::All, []) => Ok(json!({"mode": "all"})),
        (AccessMode::All, _) => Err(CommandError::Usage(
            "--model says nothing where every model may be used; add --model-access inclusive or exclusive".to_owned(),
        )),
        (AccessMode::Inclusive | AccessMode::Exclusive, []) => Err(CommandError::Usage(
            "--model-access inclusive and exclusive need models; add --model MODEL, once for each".to_owned(),
        )),
        (AccessMode::Inclusive, models) => Ok(json!({"mode": "inclusive", "models": models})),
        (AccessMode::Exclusive, models) => Ok(json!({"mode": "exclusive", "models": models})),
    }
}

pub(super) fn budgets(budgets: &[BudgetArg]) -> Result<Value, CommandError> {
    if budgets == [BudgetArg::None] {
        return Ok(json!([]));
    }
    let values: Option<Vec<Value>> = budgets
        .iter()
        .map(|budget| match budget {
            BudgetArg::None => None,
            BudgetArg::Some(value) => Some(value.clone()),
        })
        .collect();
    values.map(Value::from).ok_or_else(|| {
        CommandError::Usage("--budget none stands beside budgets; keep one of the two".to_owned())
    })
}

pub(super) fn networks(sources: &[AllowFromArg]) -> Result<Value, CommandError> {
    if sources == [AllowFromArg::Any] {
        return Ok(json!([]));
    }
    let texts: Option<Vec<String>> = sources
        .iter()
        .map(|source| match source {
            AllowFromArg::Any => None,
            AllowFromArg::Network(network) => Some(network.to_string()),
        })
        .collect();
    texts.map(Value::from).ok_or_else(|| {
        CommandError::Usage(
            "--allow-from any stands beside networks; keep one of the two".to_owned(),
        )
    })
}

pub(super) fn mode_of(key: &Value) -> AccessMode {
    match key["model_access"]["mode"].as_str() {
        Some("inclusive") => AccessMode::Inclusive,
        Some("exclusive") => AccessMode::Exclusive,
        _ => AccessMode::All,
    }
}

fn path_of(id: &KeyId) -> String {
    format!("/api/keys/{}", id.as_str())
}

fn print_key(key: &Value) -> Result<(), CommandError> {
    let [_, name, access, from, expires, state, used, hint, _] = row(key);
    print(format!(
        "Key: {}\nName: {name}\nModel access: {access}\nAllow from: {from}\nExpires: {expires}\nState: {state}\n\
         Account: {}\nCreated: {}\nLast used: {used}\nRequests: {}\nHint: {hint}\nPrevious token: {}\n\
         Limits: {}\nBudgets: {}\n",
        text(&key["id"]),
        or_dash(&key["account"]),
        or_dash(&key["created_at"]),
        key["requests"],
        previous_token(key),
        limits_of(key),
        budgets_of(key),
    ))
}

/// The limits that are set, as one line.
pub(super) fn limits_of(key: &Value) -> String {
    let limits = key["limits"].as_object().into_iter().flatten();
    let limits: Vec<String> = limits
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name} {}", escaped(text)),
            value => format!("{name} {value}"),
        })
        .collect();
    match limits.is_empty() {
        true => "-".to_owned(),
        false => limits.join(", "),
    }
}

/// The budgets, as one line, with what is left of them where the gateway runs and knows it.
pub(super) fn budgets_of(key: &Value) -> String {
    let of = |name: &str| key[name].as_array().filter(|budgets| !budgets.is_empty());
    let budgets = of("budgets_left").or_else(|| of("budgets"));
    let amount_of = |amount: &Value| match amount {
        Value::String(text) => escaped(text),
        amount => amount.to_string(),
    };
    let budgets: Vec<String> = budgets
        .into_iter()
        .flatten()
        .map(|budget| {
            let amount = amount_of(&budget["amount"]);
            let mode = match budget["mode"].as_str() {
                Some("observe") => ",observe",
                _ => "",
            };
            let used = match (&budget["used"], &budget["remaining"]) {
                (Value::Null, _) | (_, Value::Null) => String::new(),
                (used, left) => format!(" ({} used, {} left)", amount_of(used), amount_of(left)),
            };
            format!(
                "{}={amount}/{}{mode}{used}",
                text(&budget["unit"]),
                text(&budget["per"])
            )
        })
        .collect();
    match budgets.is_empty() {
        true => "-".to_owned(),
        false => budgets.join(", "),
    }
}

/// The previous token of a key, in a line.
fn previous_token(key: &Value) -> String {
    let previous = &key["previous"];
    if previous.is_null() {
        return "-".to_owned();
    }
    let hint = or_dash(&previous["hint"]);
    let end = text(&previous["not_after"]);
    let works = if previous_end(key).is_some() {
        "works until"
    } else {
        "ended at"
    };
    let used = or_dash(&previous["last_used_at"]);
    format!("{hint}, {works} {end}, last used since the rotation: {used}")
}

fn row(key: &Value) -> [String; 9] {
    let list = |value: &Value| {
        let entries = value.as_array().into_iter().flatten();
        entries.map(text).collect::<Vec<_>>().join(",")
    };
    let access = &key["model_access"];
    let models = list(&access["models"]);
    let networks = list(&key["allow_from"]);
    [
        text(&key["id"]),
        text(&key["name"]),
        match models.as_str() {
            "" => text(&access["mode"]),
            models => format!("{} {models}", text(&access["mode"])),
        },
        if networks.is_empty() {
            "any".to_owned()
        } else {
            networks
        },
        match &key["ends_at"] {
            Value::String(end) => escaped(end),
            _ => "never".to_owned(),
        },
        text(&key["state"]),
        or_dash(&key["last_used_at"]),
        or_dash(&key["hint"]),
        previous_end(key).map_or_else(|| "-".to_owned(), |end| format!("until {end}")),
    ]
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().map(escaped).unwrap_or_default()
}

pub(super) fn or_dash(value: &Value) -> String {
    value.as_str().map_or_else(|| "-".to_owned(), escaped)
}
