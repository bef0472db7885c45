//! The people of an account: its members with their roles, and invitations.
//!
//! An owner may not take over a person who is in an account of somebody else too: a link that sets such a person's password
//! anew is made by an operator alone, and an invitation never sets a password that exists.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::admin::Services;
use crate::admin::change::{with_mark, with_origin};
use crate::admin::error::ApiError;
use crate::admin::input::JsonObject;
use crate::admin::panel_url::panel_url;
use crate::admin::person_session::{random_id, time_text};
use crate::admin::principal::AccountAccess;
use crate::admin::response::ApiResponse;
use crate::admin::usage::ask;
use crate::mail::{self, MailError};
use crate::observe::log::Event;
use crate::policy::audit::{AuditAction, AuditEntry, ChangeOrigin};
use crate::policy::person::{EmailAddress, PersonId, Role};
use crate::policy::time::UnixTime;
use crate::policy::token::Code;
use crate::store::audit::{AuditTrail, entry};
use crate::store::database::{
    Database, DatabaseError, IfNotWritten, Invitation, Member, NewInvitation, Person,
    PersonIdentity,
};

/// An invitation can be accepted for so long: seven days, in seconds.
const INVITATION_SECONDS: i64 = 7 * 86_400;
/// The most open invitations of an account.
const MOST_INVITATIONS: usize = 1000;

/// The calls on the people of one account.
pub(super) struct PeopleApi<'s> {
    services: &'s Services,
    origin: ChangeOrigin,
    account: AccountAccess,
    /// The member who makes the call; None: an operator.
    by: Option<PersonId>,
}

impl<'s> PeopleApi<'s> {
    /// # Errors
    /// There is no database, and so there are no people.
    pub(super) fn new(
        services: &'s Services,
        origin: ChangeOrigin,
        account: AccountAccess,
    ) -> Result<Self, ApiError> {
        if services.database.is_none() {
            return Err(ApiError::NoAccounts);
        }
        Ok(Self {
            services,
            origin,
            by: account.by().cloned(),
            account,
        })
    }

    /// The members.
    pub(super) async fn members(&self) -> Result<ApiResponse, ApiError> {
        let members: Vec<Value> = self.all_members().await?.iter().map(member_view).collect();
        Ok(ApiResponse::json(&json!({"members": members})))
    }

    /// Gives a member another role.
    pub(super) async fn change_role(
        &self,
        person: &str,
        body: &[u8],
    ) -> Result<ApiResponse, ApiError> {
        let mut fields = JsonObject::of(body)?;
        let role = role_of(&fields.required("role")?)?;
        fields.finish()?;
        let member = self
            .member(person, |kept| kept || role == Role::Owner)
            .await?;
        if role == member.role {
            return Ok(ApiResponse::json(&member_view(&member)));
        }
        let row = AuditEntry {
            before: Some(json!({"role": member.role.label()}).to_string()),
            ..self.row(
                AuditAction::ChangeMember,
                &member.person,
                json!({"role": role.label()}),
            )
        };
        let (account, id) = (self.account.id().to_owned(), person.to_owned());
        let by = self.by.clone();
        self.change(row, move |database| {
            database.set_role(&account, &id, role, by.as_ref())
        })
        .await?;
        Ok(ApiResponse::json(&member_view(&Member { role, ..member })))
    }

    /// Removes a member. What the person may do in other accounts stays.
    pub(super) async fn remove(&self, person: &str) -> Result<ApiResponse, ApiError> {
        let member = self.member(person, |kept| kept).await?;
        let row = self.row(AuditAction::RemoveMember, &member.person, Value::Null);
        let (account, id) = (self.account.id().to_owned(), person.to_owned());
        let by = self.by.clone();
        self.change(row, move |database| {
            database.remove_member(&account, &id, by.as_ref())
        })
        .await?;
        Ok(ApiResponse::done())
    }

    /// The open invitations.
    pub(super) async fn invitations(&self, now: UnixTime) -> Result<ApiResponse, ApiError> {
        let account = self.account.id().to_owned();
        let open = ask(self.services, move |database| {
            database.invitations(&account, now.seconds())
        });
        let views: Vec<Value> = open.await?.iter().map(invitation_view).collect();
        Ok(ApiResponse::json(&json!({"invitations": views})))
    }

    /// Invites somebody. The answer has the link, which is seen only here.
    pub(super) async fn invite(&self, body: &[u8], now: UnixTime) -> Result<ApiResponse, ApiError> {
        let mut fields = JsonObject::of(body)?;
        let (email, role) = (fields.required("email")?, fields.required("role")?);
        fields.finish()?;
        let email = EmailAddress::parse(&email)
            .map_err(|error| ApiError::invalid("email", error.to_string()))?;
        let role = role_of(&role)?;
        self.add(email.as_str(), role, None, now).await
    }

    /// Makes a link by which a member sets a new password.
    pub(super) async fn reset_password(
        &self,
        person: &str,
        body: &[u8],
        now: UnixTime,
    ) -> Result<ApiResponse, ApiError> {
        JsonObject::of(body)?.finish()?;
        let member = self.member(person, |_| true).await?;
        if !matches!(member.person.identity, PersonIdentity::Password(_)) {
            return Err(ApiError::NoPassword);
        }
        let id = member.person.id.clone();
        let memberships = ask(self.services, move |database| database.memberships(&id)).await?;
        let is_elsewhere = memberships
            .iter()
            .any(|other| other.account != self.account.id());
        if is_elsewhere && !self.account.is_operator() {
            return Err(ApiError::IsElsewhere);
        }
        let (email, role) = (member.person.email.clone(), member.role);
        self.add(
            &email,
            role,
            Some(member.person.id.as_str().to_owned()),
            now,
        )
        .await
    }

    /// Takes an open invitation back.
    pub(super) async fn revoke(&self, id: &str, now: UnixTime) -> Result<ApiResponse, ApiError> {
        let (account, wanted) = (self.account.id().to_owned(), id.to_owned());
        let open = ask(self.services, move |database| {
            database.invitations(&account, now.seconds())
        });
        let open = open.await?.into_iter().find(|open| open.id == wanted);
        let open = open.ok_or(ApiError::UnknownInvitation)?;
        let row = self.row_of(
            AuditAction::RevokeInvitation,
            id,
            json!({"email": open.email}),
        );
        let (account, id) = (self.account.id().to_owned(), id.to_owned());
        self.change(row, move |database| {
            database.revoke_invitation(&account, &id, now.seconds())
        })
        .await?;
        Ok(ApiResponse::done())
    }

    async fn add(
        &self,
        email: &str,
        role: Role,
        person: Option<String>,
        now: UnixTime,
    ) -> Result<ApiResponse, ApiError> {
        let account = self.account.id().to_owned();
        let open = ask(self.services, move |database| {
            database.invitations(&account, now.seconds())
        });
        if open.await?.len() >= MOST_INVITATIONS {
            return Err(ApiError::TooManyInvitations);
        }
        let code = Code::make(getrandom::fill).map_err(|_| ApiError::Internal)?;
        let new = NewInvitation {
            invitation: Invitation {
                id: random_id("inv_")?,
                account: self.account.id().to_owned(),
                email: email.to_owned(),
                role,
                person,
                invited_by: self.origin.actor.clone(),
                inviter: self.by.as_ref().map(|by| by.as_str().to_owned()),
                created_at: now.seconds(),
                expires_at: now.plus(INVITATION_SECONDS).seconds(),
            },
            hash: code.hash().to_string(),
        };
        let panel = panel_url(self.services).ok_or(ApiError::NoPanel)?;
        let link = format!("{panel}/#invitation={}", code.reveal());
        let invitation = new.invitation.clone();
        let action = match invitation.person {
            None => AuditAction::Invite,
            Some(_) => AuditAction::ResetPassword,
        };
        let what = json!({"email": email, "role": role.label()});
        // Before the link is valid: it gives access.
        let row = self.row_of(action, &invitation.id, what);
        self.change(row, move |database| database.add_invitation(&new))
            .await?;
        let mailed = self.mail(&invitation, &link).await;
        Ok(ApiResponse::created(&json!({
            "invitation": invitation_view(&invitation), "link": link, "mailed": mailed.is_ok_and(|mailed| mailed),
        })))
    }

    /// Sends the link by mail, where the config says how. Whoever made it has it in any case. Returns whether it was sent.
    async fn mail(&self, invitation: &Invitation, link: &str) -> Result<bool, MailError> {
        let Some(config) = &self.services.config.sign_in.mail else {
            return Ok(false);
        };
        let Ok(to) = EmailAddress::parse(&invitation.email) else {
            return Err(MailError::Address);
        };
        let account = self.services.table.account(&invitation.account);
        let name =
            account.and_then(|account| account.name.as_ref().map(|name| name.as_str().to_owned()));
        let name = name.unwrap_or_else(|| invitation.account.clone());
        let (subject, what) = match invitation.person {
            None => (
                format!("Invitation to {name}"),
                format!(
                    "{} invites you to the account {name}, as its {}.",
                    invitation.invited_by,
                    invitation.role.label()
                ),
            ),
            Some(_) => (
                "A new password".to_owned(),
                format!("{} lets you set a new password.", invitation.invited_by),
            ),
        };
        let text = format!(
            "{what}\n\nOpen this link. It works once, until {}:\n\n{link}\n\nIf you do not expect this mail, do nothing.\n",
            time_text(invitation.expires_at)
        );
        let sent = mail::send(config, &to, &subject, text).await;
        if let Err(error) = &sent {
            let event = Event::warn("mail")
                .with("invitation", invitation.id.clone())
                .with("reason", error.to_string());
            self.services.log.event(event);
        }
        sent.map(|()| true)
    }

    async fn all_members(&self) -> Result<Vec<Member>, ApiError> {
        let account = self.account.id().to_owned();
        ask(self.services, move |database| database.members(&account)).await
    }

    /// A member. `keeps_owner`: whether the account has an owner after the change, given whether it has another one. Only
    /// an operator may leave an account without any.
    async fn member(
        &self,
        person: &str,
        keeps_owner: impl FnOnce(bool) -> bool,
    ) -> Result<Member, ApiError> {
        let members = self.all_members().await?;
        let is_owner = |member: &&Member| member.role == Role::Owner;
        let others = |member: &&Member| member.person.id.as_str() != person;
        let has_another = members
            .iter()
            .filter(others)
            .any(|member| is_owner(&member));
        let member = members
            .into_iter()
            .find(|member| member.person.id.as_str() == person)
            .ok_or(ApiError::UnknownMember)?;
        let is_last = member.role == Role::Owner && !keeps_owner(has_another);
        match is_last && !self.account.is_operator() {
            true => Err(ApiError::LastOwner),
            false => Ok(member),
        }
    }

    /// Records a change, then makes it. What takes access away is not in force either before it is in the database, so it is
    /// refused too where it cannot be recorded.
    async fn change(
        &self,
        row: AuditEntry,
        change: impl FnOnce(&Database) -> Result<bool, DatabaseError> + Send + 'static,
    ) -> Result<(), ApiError> {
        let (action, target) = (row.action, row.target.clone());
        let trail = AuditTrail::of(self.services.database.clone());
        let mark = trail.record(row, IfNotWritten::Refuse).await?;
        let database = self.services.database.as_ref().map(Arc::clone);
        let database = database.ok_or(ApiError::NoAccounts)?;
        let changed = tokio::task::spawn_blocking(move || change(&database)).await;
        let changed = changed.map_err(|_| ApiError::Internal)?;
        let is_there = changed.map_err(|error| ApiError::NotWritten {
            in_force: false,
            message: format!("{error} (nothing was changed)"),
        })?;
        let outcome = match is_there {
            true => Ok(()),
            false => Err(self
                .outrun(action, target.as_deref().unwrap_or_default())
                .await),
        };
        let event = with_origin(Event::info("change"), &self.origin)
            .with("action", action.label())
            .with("account", self.account.id().to_owned())
            .with("target", target)
            .with(
                "result",
                outcome.as_ref().map_or_else(ApiError::label, |()| "ok"),
            );
        self.services.log.event(with_mark(event, mark.as_ref()));
        outcome
    }

    /// Why a change was not made that was possible a moment ago: somebody was faster.
    async fn outrun(&self, action: AuditAction, target: &str) -> ApiError {
        let members = match self.all_members().await {
            Ok(members) => members,
            Err(error) => return error,
        };
        let role = |person: &str| {
            let mut members = members.iter();
            let member = members.find(|member| member.person.id.as_str() == person);
            member.map(|member| member.role)
        };
        let by = self.by.as_ref().map(|by| role(by.as_str()));
        ApiError::ChangedMeanwhile(match action {
            _ if by.is_some_and(|role| role != Some(Role::Owner)) => {
                "You are no owner of the account any more; nothing was changed."
            }
            AuditAction::RevokeInvitation => {
                "The invitation was used or taken back meanwhile; nothing was changed."
            }
            AuditAction::ChangeMember | AuditAction::RemoveMember if role(target).is_none() => {
                "The member was removed meanwhile; nothing was changed."
            }
            AuditAction::ChangeMember | AuditAction::RemoveMember => return ApiError::LastOwner,
            _ => "The people of the account were changed meanwhile; look at them, and try again.",
        })
    }

    fn row(&self, action: AuditAction, person: &Person, after: Value) -> AuditEntry {
        let mut row = self.row_of(action, person.id.as_str(), json!({"email": person.email}));
        if let Value::Object(after) = after {
            let mut whole = json!({"email": person.email});
            for (name, value) in after {
                whole[name] = value;
            }
            row.after = Some(whole.to_string());
        }
        row
    }

    fn row_of(&self, action: AuditAction, target: &str, after: Value) -> AuditEntry {
        AuditEntry {
            target: Some(target.to_owned()),
            account: Some(self.account.id().to_owned()),
            ..entry(action, self.origin.clone(), Some(after))
        }
    }
}

fn role_of(text: &str) -> Result<Role, ApiError> {
    let known = Role::ALL.map(Role::label).join(", ");
    let wrong = || ApiError::invalid("role", format!("must be one of {known}"));
    Role::of_label(text).ok_or_else(wrong)
}

fn member_view(member: &Member) -> Value {
    let Member { person, role } = member;
    json!({
        "id": person.id.as_str(), "email": person.email, "name": person.name, "role": role.label(),
        "sign_in": match person.identity {
            PersonIdentity::Password(_) => "password",
            PersonIdentity::Provider { .. } => "oidc",
        },
        "created_at": time_text(person.created_at), "last_sign_in_at": person.last_sign_in_at.map(time_text),
    })
}

fn invitation_view(invitation: &Invitation) -> Value {
    let Invitation {
        id,
        account: _,
        email,
        role,
        person,
        invited_by,
        inviter: _,
        created_at,
        expires_at,
    } = invitation;
    json!({
        "id": id, "email": email, "role": role.label(), "person": person, "invited_by": invited_by,
        "created_at": time_text(*created_at), "expires_at": time_text(*expires_at),
    })
}
