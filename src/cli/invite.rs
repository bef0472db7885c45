//! `keygate invite …`: invitations to an account.

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use crate::cli::client::{Client, ClientResponse};
use crate::cli::command_error::CommandError;
use crate::cli::keys::{or_dash, text};
use crate::cli::output::{self, escaped, print, print_line};
use crate::cli::{InviteArgs, InviteCommand, InviteRevokeArgs, MemberListArgs};
use crate::policy::key::KeyId;

pub(super) fn run(args: &InviteArgs) -> Result<ExitCode, CommandError> {
    match &args.command {
        Some(InviteCommand::List(args)) => list(args),
        Some(InviteCommand::Revoke(args)) => revoke(args),
        None => invite(args),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn invite(args: &InviteArgs) -> Result<(), CommandError> {
    // Both are required where there is no subcommand.
    let (Some(account), Some(email)) = (&args.account, &args.email) else {
        let message = "name the account and the e-mail address".to_owned();
        return Err(CommandError::Usage(message));
    };
    let client = Client::of_gateway(&args.gateway)?;
    let role = args.role.role().label();
    let body = json!({"email": email, "role": role});
    let answer = client.call(&Method::POST, &path_of(account), Some(&body))?;
    let (email, id) = (escaped(email), account.as_str());
    let to_do = format!("Send this link to {email}, who becomes {role} of {id} by it.");
    print_link(&answer, account, &to_do)
}

/// Prints the link of a new invitation, and what it is for.
pub(super) fn print_link(
    answer: &ClientResponse,
    account: &KeyId,
    to_do: &str,
) -> Result<(), CommandError> {
    if answer.print_json()? {
        return Ok(());
    }
    let answer = answer.value()?;
    // Alone on standard output, so that a script can send it.
    print_line(text(&answer["link"]))?;
    eprintln!(
        "{to_do} It works once, within 7 days (until {}), and is shown only now. Keep it from everybody else. 'keygate \
         invite revoke {} {}' takes it back.",
        or_dash(&answer["invitation"]["expires_at"]),
        account.as_str(),
        or_dash(&answer["invitation"]["id"]),
    );
    Ok(())
}

fn list(args: &MemberListArgs) -> Result<(), CommandError> {
    let client = Client::of_gateway(&args.gateway)?;
    let answer = client.call(&Method::GET, &path_of(&args.account), None)?;
    if answer.print_json()? {
        return Ok(());
    }
    let answer = answer.value()?;
    let open = answer["invitations"].as_array().into_iter().flatten();
    let headings = ["ID", "E-MAIL", "ROLE", "FOR", "INVITED BY", "EXPIRES"];
    print(output::table(headings, open.map(row).collect()))
}

fn revoke(args: &InviteRevokeArgs) -> Result<(), CommandError> {
    let client = Client::of_gateway(&args.gateway)?;
    let invitation = args.invitation.as_str();
    let path = format!("{}/{invitation}", path_of(&args.account));
    let answer = client.call(&Method::DELETE, &path, None)?;
    match answer.print_json()? {
        true => Ok(()),
        false => print_line(format!("revoked {invitation}")),
    }
}

fn path_of(account: &KeyId) -> String {
    format!("/api/accounts/{}/invitations", account.as_str())
}

fn row(invitation: &Value) -> [String; 6] {
    [
        text(&invitation["id"]),
        text(&invitation["email"]),
        text(&invitation["role"]),
        match invitation["person"].is_null() {
            true => "a new member".to_owned(),
            false => "a new password".to_owned(),
        },
        text(&invitation["invited_by"]),
        text(&invitation["expires_at"]),
    ]
}
