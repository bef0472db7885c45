//! `keygate accounts …`

use std::process::ExitCode;

use http::Method;
use serde_json::{Map, Value, json};

use crate::cli::client::Client;
use crate::cli::command_error::CommandError;
use crate::cli::keys::{
    access, budgets, budgets_of, can_ask, is_meant, limits_of, mode_of, networks, or_dash, text,
};
use crate::cli::output::{self, print, print_line};
use crate::cli::{
    AccessMode, AccountArgs, AccountCreateArgs, AccountDeleteArgs, AccountListArgs,
    AccountUpdateArgs, AccountsCommand, CeilingArgs,
};
use crate::policy::key::KeyId;
use crate::policy::key_limits::LimitKind;

/// Accounts per call.
const PAGE: usize = 1000;

pub(super) fn run(command: &AccountsCommand) -> Result<ExitCode, CommandError> {
    match command {
        AccountsCommand::Create(args) => create(args),
        AccountsCommand::List(args) => list(args),
        AccountsCommand::Show(args) => show(args),
        AccountsCommand::Update(args) => update(args),
        AccountsCommand::Disable(args) => switch(args, true),
        AccountsCommand::Enable(args) => switch(args, false),
        AccountsCommand::Delete(args) => delete(args),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn create(args: &AccountCreateArgs) -> Result<(), CommandError> {
    let mut body = args.ceilings.fields(args.ceilings.model_access)?;
    if let Some(id) = &args.id {
        body.insert("id".to_owned(), id.as_str().into());
    }
    let client = Client::of_gateway(&args.gateway)?;
    let answer = client.call(&Method::POST, "/api/accounts", Some(&body.into()))?;
    match answer.print_json()? {
        true => Ok(()),
        false => print_account(&answer.value()?),
    }
}

fn list(args: &AccountListArgs) -> Result<(), CommandError> {
    let client = Client::of_gateway(&args.gateway)?;
    let first_page = format!("/api/accounts?limit={PAGE}");
    let mut target = first_page.clone();
    let mut accounts: Vec<Value> = Vec::new();
    loop {
        let page = client.call(&Method::GET, &target, None)?.value()?;
        accounts.extend(page["accounts"].as_array().into_iter().flatten().cloned());
        match page["next"].as_str() {
            Some(next) => target = format!("{first_page}&after={next}"),
            None => break,
        }
    }
    if client.wants_json() {
        return print_line(json!({"accounts": accounts, "next": null}).to_string());
    }
    let headings = [
        "ID",
        "NAME",
        "MODEL ACCESS",
        "ALLOW FROM",
        "KEYS",
        "KEY DAYS",
        "STATE",
    ];
    print(output::table(headings, accounts.iter().map(row).collect()))
}

fn show(args: &AccountArgs) -> Result<(), CommandError> {
    let client = Client::of_gateway(&args.gateway)?;
    let answer = client.call(&Method::GET, &path_of(&args.id), None)?;
    match answer.print_json()? {
        true => Ok(()),
        false => print_account(&answer.value()?),
    }
}

fn update(args: &AccountUpdateArgs) -> Result<(), CommandError> {
    let path = path_of(&args.id);
    let client = Client::of_gateway(&args.gateway)?;
    let mode = match args.ceilings.model_access {
        // Only the models change; the mode stays.
        None if !args.ceilings.models.is_empty() => {
            Some(mode_of(&client.call(&Method::GET, &path, None)?.value()?))
        }
        mode => mode,
    };
    let body = args.ceilings.fields(mode)?;
    if body.is_empty() {
        return Err(CommandError::Usage(
            "nothing is to change; name a field, like --name or --max-keys".to_owned(),
        ));
    }
    change(&client, &path, &body.into())
}

fn switch(args: &AccountArgs, disabled: bool) -> Result<(), CommandError> {
    let client = Client::of_gateway(&args.gateway)?;
    change(
        &client,
        &path_of(&args.id),
        &json!({ "disabled": disabled }),
    )
}

fn change(client: &Client, path: &str, body: &Value) -> Result<(), CommandError> {
    let answer = client.call(&Method::PATCH, path, Some(body))?;
    match answer.print_json()? {
        true => Ok(()),
        false => print_account(&answer.value()?),
    }
}

fn delete(args: &AccountDeleteArgs) -> Result<(), CommandError> {
    let (path, id) = (path_of(&args.id), args.id.as_str());
    if !args.yes && !can_ask() {
        return Err(CommandError::Refused(format!(
            "nothing was deleted: there is no terminal to ask on whether {id} is meant; add --yes where it is"
        )));
    }
    let client = Client::of_gateway(&args.gateway)?;
    let mut keys = args.keys.map(u64::from);
    if !args.yes {
        let account = client.call(&Method::GET, &path, None)?.value()?;
        let question = format!(
            "Delete the account {id}, and its keys ({}) with it?",
            account["keys"]
        );
        if !is_meant(&question)? {
            return Err(CommandError::Refused("nothing was deleted".to_owned()));
        }
        // The number that was shown: where it has changed meanwhile, the call is refused.
        keys = keys.or(account["keys"].as_u64());
    }
    let target = match keys {
        None => path,
        Some(keys) => format!("{path}?keys={keys}"),
    };
    let answer = client.call(&Method::DELETE, &target, None)?;
    match answer.print_json()? {
        true => Ok(()),
        false => print_line(format!("deleted {id}")),
    }
}

impl CeilingArgs {
    /// The ceilings as the API expects them: an absent argument is left out, a cleared ceiling is null.
    fn fields(&self, mode: Option<AccessMode>) -> Result<Map<String, Value>, CommandError> {
        let mut fields = Map::new();
        if let Some(name) = &self.name {
            let name = Some(name.as_str()).filter(|name| !name.is_empty());
            fields.insert("name".to_owned(), name.into());
        }
        if let Some(mode) = mode {
            fields.insert("model_access".to_owned(), access(mode, &self.models)?);
        } else if !self.models.is_empty() {
            return Err(CommandError::Usage(
                "--model needs --model-access inclusive or exclusive; add it".to_owned(),
            ));
        }
        if !self.allow_from.is_empty() {
            fields.insert("allow_from".to_owned(), networks(&self.allow_from)?);
        }
        let ceilings = [
            ("max_keys", self.max_keys),
            ("max_key_days", self.max_key_days),
        ];
        for (name, ceiling) in ceilings {
            if let Some(ceiling) = ceiling {
                fields.insert(name.to_owned(), ceiling.value());
            }
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

fn path_of(id: &KeyId) -> String {
    format!("/api/accounts/{}", id.as_str())
}

fn print_account(account: &Value) -> Result<(), CommandError> {
    let [_, name, access, from, keys, days, state] = row(account);
    print(format!(
        "Account: {}\nName: {name}\nModel access: {access}\nAllow from: {from}\nKeys: {keys}\nKey days: {days}\n\
         State: {state}\nCreated: {}\nLimits: {}\nBudgets: {}\n",
        text(&account["id"]),
        or_dash(&account["created_at"]),
        limits_of(account),
        budgets_of(account),
    ))
}

fn row(account: &Value) -> [String; 7] {
    let list = |value: &Value| {
        let entries = value.as_array().into_iter().flatten();
        entries.map(text).collect::<Vec<_>>().join(",")
    };
    let access = &account["model_access"];
    let models = list(&access["models"]);
    let networks = list(&account["allow_from"]);
    let keys = &account["keys"];
    [
        text(&account["id"]),
        or_dash(&account["name"]),
        match models.as_str() {
            "" => text(&access["mode"]),
            models => format!("{} {models}", text(&access["mode"])),
        },
        match networks.is_empty() {
            true => "any".to_owned(),
            false => networks,
        },
        match account["max_keys"].as_u64() {
            Some(most) => format!("{keys} of {most}"),
            None => keys.to_string(),
        },
        match account["max_key_days"].as_u64() {
            Some(days) => days.to_string(),
            None => "any".to_owned(),
        },
        match account["disabled"].as_bool() {
            Some(true) => "disabled".to_owned(),
            Some(false) | None => "active".to_owned(),
        },
    ]
}
