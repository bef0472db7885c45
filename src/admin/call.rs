//! One call that was let in: who handles which [`Operation`], and what the caller may do with it.
//!
//! Calls that nobody signs in for come first, then those that persons may make too; all others are operators'. That last
//! match names every operation, so that a new one that stands nowhere does not compile, and is an operator's if it is only
//! there.

use std::sync::Arc;

use bytes::Bytes;
use http::request;

use crate::admin::accounts::AccountApi;
use crate::admin::error::ApiError;
use crate::admin::input::Query;
use crate::admin::keys::KeyApi;
use crate::admin::operation::Operation;
use crate::admin::people::PeopleApi;
use crate::admin::principal::{OperatorOnly, Principal};
use crate::admin::response::ApiResponse;
use crate::admin::sign_in::SignInClient;
use crate::admin::{
    Peer, Services, accounts, alerts, audit, budgets, change, explain, gateways, idempotency, keys,
    models, openapi, overview, person_session, provider_sign_in, refusals, reload, session,
    sign_in, status, usage, wait,
};
use crate::policy::audit::{ChangeOrigin, ChangeVia};
use crate::policy::person::Role;
use crate::runtime::lifecycle::Phase;
use crate::runtime::wall_clock::now;
use crate::table::KeysState;

/// One call.
pub(super) struct Call<'c> {
    pub(super) services: &'c Arc<Services>,
    pub(super) peer: Peer,
    pub(super) parts: &'c request::Parts,
    pub(super) request_id: &'c str,
    pub(super) query: Result<Query, ApiError>,
    /// The whole body; empty where the method has none.
    pub(super) body: Bytes,
    pub(super) via: ChangeVia,
}

impl<'c> Call<'c> {
    /// Handles it. `principal`: who makes it, where somebody has to say for this operation.
    pub(super) async fn answer(
        self,
        operation: Operation<'_>,
        principal: Option<Principal>,
    ) -> Result<ApiResponse, ApiError> {
        let services = self.services;
        match operation {
            Operation::Health => Ok(ApiResponse::text("ok\n")),
            Operation::Ready => ready(services),
            // Open, or refused before: see the access check.
            Operation::Metrics if principal.is_none() => Ok(status::metrics(services)),
            Operation::PanelFile(file) => file.response(&self.parts.headers),
            Operation::SignInWays => Ok(sign_in::ways(services)),
            Operation::BeginProviderSignIn => {
                let origin = self.unknown_origin();
                let client = self.client(&origin);
                provider_sign_in::begin(services, client, self.query, now()).await
            }
            Operation::EndProviderSignIn => {
                let origin = self.unknown_origin();
                let client = self.client(&origin);
                provider_sign_in::come_back(services, client, self.query, now()).await
            }
            Operation::LookAtInvitation => {
                let origin = self.unknown_origin();
                sign_in::look(services, self.client(&origin), &self.body, now()).await
            }
            Operation::SignIn => {
                let headers = (&self.parts.headers, self.request_id);
                session::sign_in(services, self.peer, headers, &self.body, now()).await
            }
            operation => {
                let principal = principal.ok_or(ApiError::Unauthorized)?;
                self.answer_to(operation, principal).await
            }
        }
    }

    async fn answer_to(
        self,
        operation: Operation<'_>,
        principal: Principal,
    ) -> Result<ApiResponse, ApiError> {
        let (services, peer, headers) = (self.services, self.peer, &self.parts.headers);
        match operation {
            Operation::ListKeys
            | Operation::CreateKey
            | Operation::ShowKey(_)
            | Operation::ChangeKey(_)
            | Operation::DeleteKey(_)
            | Operation::RotateKey(_)
            | Operation::ExpirePrevious(_) => self.keys(operation, &principal).await,
            Operation::ListAccounts => {
                let accounts = AccountApi::new(services, self.origin(&principal))?;
                accounts.list(&self.query?, &principal).await
            }
            Operation::ShowAccount(id) => {
                let access = principal.account(&services.table, id, Role::Viewer)?;
                let accounts = AccountApi::new(services, self.origin(&principal))?;
                accounts.show(&access).await
            }
            Operation::ListMembers(_)
            | Operation::ChangeMember(..)
            | Operation::RemoveMember(..)
            | Operation::ResetPassword(..)
            | Operation::ListInvitations(_)
            | Operation::Invite(_)
            | Operation::RevokeInvitation(..) => self.people(operation, &principal).await,
            Operation::Models => models::respond(services, &principal, &self.query?, now()).await,
            Operation::Usage => {
                let query = self.query?.of_account(&principal, Role::Viewer)?;
                let asked = (&query, principal.keys());
                usage::sums(services, asked, self.parts, now()).await
            }
            Operation::UsageRecords => {
                let query = self.query?.of_account(&principal, Role::Viewer)?;
                let asked = (&query, principal.keys());
                usage::records(services, asked, self.parts).await
            }
            Operation::Audit => {
                let query = self.query?.of_account(&principal, Role::Owner)?;
                audit::rows(services, &query, self.parts).await
            }
            Operation::ShowSession => Ok(session::show(services, peer, headers, &principal)),
            Operation::SignOut => {
                session::sign_out(services, &principal, self.origin(&principal), headers).await
            }
            Operation::ListSessions => person_session::list(services, &principal, now()).await,
            Operation::EndSession(id) => person_session::end_one(services, &principal, id).await,
            Operation::OpenApi => Ok(openapi::document()),
            operation => {
                let operator = principal.operator_only()?;
                self.answer_to_operator(operation, &principal, operator)
                    .await
            }
        }
    }

    async fn keys(
        self,
        operation: Operation<'_>,
        principal: &Principal,
    ) -> Result<ApiResponse, ApiError> {
        let (services, headers) = (self.services, &self.parts.headers);
        let origin = self.origin(principal);
        let key_store = services.key_store.on_behalf_of(origin.clone());
        let api = KeyApi {
            table: &services.table,
            scope: principal.keys(),
            key_store: &key_store,
            routing: Some(services.fleet.routing()),
            url: &services.url,
            keeps_uses: services.database.is_some(),
        };
        let expected = keys::expected_revision(headers);
        let repeat = |call: &str| -> Result<idempotency::Repeat, ApiError> {
            // The same Idempotency-Key of somebody else is another one.
            let call = format!("{}/{call}", principal.id());
            services.state.idempotency_keys.of(headers, &call)
        };
        match operation {
            Operation::ListKeys => {
                let query = self.query?;
                if query.parameter("unused_for")?.is_some() {
                    accounts::learn_key_uses(services).await?;
                }
                return api.list(&query, now()).await;
            }
            Operation::ShowKey(id) => {
                api.check_sees(id)?;
                let left = budgets::left(services, id).await;
                return api.show(id, left, now());
            }
            _ => {}
        }
        let wait = wait::asked(services, &self.query?)?;
        let (name, done) = match operation {
            Operation::CreateKey => {
                let repeat = repeat("create")?;
                ("create", api.create(&self.body, repeat, now()).await)
            }
            Operation::ChangeKey(id) => {
                ("change", api.change(id, expected, &self.body, now()).await)
            }
            Operation::DeleteKey(id) => ("delete", api.delete(id, expected).await),
            Operation::RotateKey(id) => {
                let repeat = repeat(id)?;
                let done = api.rotate(id, expected, &self.body, repeat, now()).await;
                ("rotate", done)
            }
            Operation::ExpirePrevious(id) => {
                let done = api.expire_previous(id, expected, &self.body, now()).await;
                ("expire_previous", done)
            }
            _ => return Err(ApiError::Internal),
        };
        keys::log_change(&services.log, &origin, name, &done);
        match (wait, done.outcome) {
            (Some(wait), Ok(response)) => {
                let waited = wait::until_in_force(services, wait).await;
                Ok(response.with(wait::WAIT, waited.as_header(principal)))
            }
            (_, outcome) => outcome,
        }
    }

    async fn people(
        self,
        operation: Operation<'_>,
        principal: &Principal,
    ) -> Result<ApiResponse, ApiError> {
        let services = self.services;
        let api = |id: &str, least: Role| {
            let access = principal.account(&services.table, id, least)?;
            PeopleApi::new(services, self.origin(principal), access)
        };
        match operation {
            Operation::ListMembers(id) => api(id, Role::Viewer)?.members().await,
            Operation::ListInvitations(id) => api(id, Role::Owner)?.invitations(now()).await,
            Operation::RemoveMember(id, person) => api(id, Role::Owner)?.remove(person).await,
            Operation::RevokeInvitation(id, invitation) => {
                api(id, Role::Owner)?.revoke(invitation, now()).await
            }
            Operation::ChangeMember(id, person) => {
                let api = api(id, Role::Owner)?;
                api.change_role(person, &self.body).await
            }
            Operation::ResetPassword(id, person) => {
                let api = api(id, Role::Owner)?;
                api.reset_password(person, &self.body, now()).await
            }
            Operation::Invite(id) => {
                let api = api(id, Role::Owner)?;
                api.invite(&self.body, now()).await
            }
            _ => Err(ApiError::Internal),
        }
    }

    async fn answer_to_operator(
        self,
        operation: Operation<'_>,
        principal: &Principal,
        operator: OperatorOnly,
    ) -> Result<ApiResponse, ApiError> {
        let (services, peer, headers) = (self.services, self.peer, &self.parts.headers);
        let origin = self.origin(principal);
        match operation {
            Operation::Metrics => Ok(status::metrics(services)),
            Operation::ResetBudgets(id) => {
                budgets::reset(services, operator, origin, id, &self.body, now()).await
            }
            Operation::CreateAccount => {
                let body = self.body.clone();
                let api = AccountApi::new(services, origin)?;
                accounts::to_its_end(async move { api.create(operator, &body, now()).await }).await
            }
            Operation::ChangeAccount(id) => {
                let body = self.body.clone();
                let expected = keys::expected_revision(headers);
                let (api, id) = (AccountApi::new(services, origin)?, id.to_owned());
                accounts::to_its_end(
                    async move { api.change(operator, &id, &expected, &body).await },
                )
                .await
            }
            Operation::DeleteAccount(id) => {
                let expected = keys::expected_revision(headers);
                let named = accounts::named_keys(&self.query?)?;
                let key_store = services.key_store.on_behalf_of(origin.clone());
                let (api, id) = (AccountApi::new(services, origin)?, id.to_owned());
                accounts::to_its_end(async move {
                    let keys = (named, &key_store);
                    api.delete(operator, &id, &expected, keys).await
                })
                .await
            }
            Operation::Reload => {
                reload::respond(services, operator, origin, &self.query?, &self.body).await
            }
            Operation::AcceptRollback => {
                reload::accept_rollback(services, operator, origin, &self.query?, &self.body).await
            }
            Operation::TestAlert => alerts::test(services, operator, &origin, &self.body).await,
            Operation::Status => Ok(status::status(services, operator)),
            Operation::Gateways => Ok(gateways::list(services, operator).await),
            Operation::Explain => explain::respond(services, operator, &self.body, now()).await,
            Operation::Overview => overview::respond(services, operator, now()).await,
            Operation::Refusals => refusals::respond(services, operator, &self.query?, now()),
            Operation::VerifyAudit => audit::verify(services, operator, &self.query?).await,
            Operation::MakeSignInLink => {
                session::make_link(services, peer, origin, &self.body, now()).await
            }
            // Handled before.
            Operation::Health
            | Operation::Ready
            | Operation::PanelFile(_)
            | Operation::SignInWays
            | Operation::BeginProviderSignIn
            | Operation::EndProviderSignIn
            | Operation::LookAtInvitation
            | Operation::SignIn
            | Operation::ListKeys
            | Operation::CreateKey
            | Operation::ShowKey(_)
            | Operation::ChangeKey(_)
            | Operation::DeleteKey(_)
            | Operation::RotateKey(_)
            | Operation::ExpirePrevious(_)
            | Operation::ListAccounts
            | Operation::ShowAccount(_)
            | Operation::ListMembers(_)
            | Operation::ChangeMember(..)
            | Operation::RemoveMember(..)
            | Operation::ResetPassword(..)
            | Operation::ListInvitations(_)
            | Operation::Invite(_)
            | Operation::RevokeInvitation(..)
            | Operation::Models
            | Operation::Usage
            | Operation::UsageRecords
            | Operation::Audit
            | Operation::ShowSession
            | Operation::SignOut
            | Operation::ListSessions
            | Operation::EndSession(_)
            | Operation::OpenApi => Err(ApiError::Internal),
        }
    }

    fn origin(&self, principal: &Principal) -> ChangeOrigin {
        let headers = &self.parts.headers;
        change::origin(
            self.services,
            self.peer,
            headers,
            self.via,
            self.request_id,
            principal,
        )
    }

    fn unknown_origin(&self) -> ChangeOrigin {
        let headers = &self.parts.headers;
        change::unknown(
            self.services,
            self.peer,
            headers,
            ChangeVia::Panel,
            self.request_id,
        )
    }

    fn client<'o>(&self, origin: &'o ChangeOrigin) -> SignInClient<'o>
    where
        'c: 'o,
    {
        SignInClient {
            peer: self.peer,
            headers: &self.parts.headers,
            origin,
        }
    }
}

fn ready(services: &Services) -> Result<ApiResponse, ApiError> {
    if services.lifecycle.phase() != Phase::Running {
        Err(ApiError::NotReady("the gateway is shutting down"))
    } else if !services.fleet.is_ready() {
        Err(ApiError::NotReady(
            "the upstreams were not asked for their models yet",
        ))
    } else if services.table.keys_state() == KeysState::Awaited {
        Err(ApiError::NotReady(
            "the keys could not be read from the database yet, and there is no last good copy of them",
        ))
    } else if !services.table.knows_accounts() {
        Err(ApiError::NotReady(
            "the accounts could not be read from the database yet",
        ))
    } else {
        let routing = services.fleet.routing();
        let unheard = routing.unheard().map(|upstream| {
            let name = upstream.name();
            format!("not ready: upstream {name} has not said yet which models it serves\n")
        });
        let status = services.database.as_ref().map(|database| database.status());
        let waits = status.filter(|status| !status.up).map(|status| {
            format!(
                "the database cannot be written, {} bytes of usage wait for it\n",
                status.waiting_bytes
            )
        });
        let lines: String = unheard.chain(waits).collect();
        Ok(ApiResponse::text(format!("ready\n{lines}")))
    }
}
