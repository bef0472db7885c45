//! `keygate members …`: the people of an account.

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use crate::cli::client::Client;
use crate::cli::command_error::CommandError;
use crate::cli::invite;
use crate::cli::keys::{or_dash, text};
use crate::cli::output::{self, escaped, print, print_line};
use crate::cli::{MemberArgs, MemberListArgs, MemberRoleArgs, MembersCommand};
use crate::policy::key::KeyId;
use crate::policy::person::{EmailAddress, Role};

pub(super) fn run(command: &MembersCommand) -> Result<ExitCode, CommandError> {
    match command {
        MembersCommand::List(args) => list(args),
        MembersCommand::Role(args) => change_role(args),
        MembersCommand::Remove(args) => remove(args),
        MembersCommand::ResetPassword(args) => reset_password(args),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn list(args: &MemberListArgs) -> Result<(), CommandError> {
    let client = Client::of_gateway(&args.gateway)?;
    let answer = client.call(&Method::GET, &path_of(&args.account), None)?;
    if answer.print_json()? {
        return Ok(());
    }
    let answer = answer.value()?;
    let rows = answer["members"].as_array().into_iter().flatten().map(row);
    let headings = ["ID", "E-MAIL", "NAME", "ROLE", "SIGN-IN", "LAST SIGN-IN"];
    print(output::table(headings, rows.collect()))
}

fn change_role(args: &MemberRoleArgs) -> Result<(), CommandError> {
    let client = Client::of_gateway(&args.gateway)?;
    let account = &args.account;
    let members = MemberList::of(&client, account)?;
    let member = members.named(&args.person)?;
    let role = args.role.role();
    let path = format!("{}/{}", path_of(account), member.id);
    let answer = client.call(&Method::PATCH, &path, Some(&json!({"role": role.label()})))?;
    if !answer.print_json()? {
        let (account, role) = (account.as_str(), role.label());
        print_line(format!("{} is {role} of {account} now", member.shown()))?;
    }
    if role != Role::Owner {
        members.warn_without_owner(member);
    }
    Ok(())
}

fn remove(args: &MemberArgs) -> Result<(), CommandError> {
    let client = Client::of_gateway(&args.gateway)?;
    let account = &args.account;
    let members = MemberList::of(&client, account)?;
    let member = members.named(&args.person)?;
    let path = format!("{}/{}", path_of(account), member.id);
    let answer = client.call(&Method::DELETE, &path, None)?;
    if !answer.print_json()? {
        let account = account.as_str();
        print_line(format!("removed {} from {account}", member.shown()))?;
        eprintln!("The keys that this member created work on; 'keygate keys list' shows them.");
    }
    members.warn_without_owner(member);
    Ok(())
}

fn reset_password(args: &MemberArgs) -> Result<(), CommandError> {
    let client = Client::of_gateway(&args.gateway)?;
    let account = &args.account;
    let members = MemberList::of(&client, account)?;
    let member = members.named(&args.person)?;
    let path = format!("{}/{}/reset-password", path_of(account), member.id);
    let answer = client.call(&Method::POST, &path, Some(&json!({})))?;
    let to_do = format!("{} sets a new password with this link.", member.shown());
    invite::print_link(&answer, account, &to_do)
}

/// The members of an account.
struct MemberList<'a> {
    account: &'a KeyId,
    list: Vec<ListedMember>,
}

struct ListedMember {
    id: String,
    email: String,
    is_owner: bool,
}

impl<'a> MemberList<'a> {
    fn of(client: &Client, account: &'a KeyId) -> Result<Self, CommandError> {
        let answer = client.call(&Method::GET, &path_of(account), None)?;
        let answer = answer.value()?;
        let field = |member: &Value, name: &str| member[name].as_str().unwrap_or("").to_owned();
        let member = |member: &Value| ListedMember {
            id: field(member, "id"),
            email: field(member, "email"),
            is_owner: member["role"] == Role::Owner.label(),
        };
        let list = answer["members"].as_array().into_iter().flatten();
        let list = list.map(member).collect();
        Ok(Self { account, list })
    }

    /// The member of this id or e-mail address.
    fn named(&self, person: &str) -> Result<&ListedMember, CommandError> {
        let email = EmailAddress::parse(person).ok();
        let is_named = |member: &&ListedMember| match &email {
            Some(email) => member.email == email.as_str(),
            None => member.id == person,
        };
        let mut named = self.list.iter().filter(is_named);
        let account = self.account.as_str();
        let refused = |what| {
            let person = escaped(person);
            let message = format!("{person}: {what}; 'keygate members list {account}' lists them");
            Err(CommandError::Refused(message))
        };
        match (named.next(), named.next()) {
            (Some(member), None) => Ok(member),
            (None, _) => refused("the account has no such member"),
            // An identity provider may know two persons by one address.
            (Some(_), Some(_)) => {
                refused("the account has two members of this address, so name the id of one")
            }
        }
    }

    /// Tells where the account has no owner after a change of this member.
    fn warn_without_owner(&self, changed: &ListedMember) {
        let others = self.list.iter().filter(|member| member.id != changed.id);
        if changed.is_owner && !others.into_iter().any(|member| member.is_owner) {
            let account = self.account.as_str();
            eprintln!(
                "keygate: warning: {account} has no owner now; make one with 'keygate members role {account} EMAIL \
                 owner' or 'keygate invite {account} EMAIL --role owner'"
            );
        }
    }
}

impl ListedMember {
    fn shown(&self) -> String {
        escaped(match self.email.as_str() {
            "" => &self.id,
            email => email,
        })
    }
}

fn path_of(account: &KeyId) -> String {
    format!("/api/accounts/{}/members", account.as_str())
}

fn row(member: &Value) -> [String; 6] {
    [
        text(&member["id"]),
        text(&member["email"]),
        or_dash(&member["name"]),
        text(&member["role"]),
        text(&member["sign_in"]),
        or_dash(&member["last_sign_in_at"]),
    ]
}
