//! Floor 6: the command line. The arguments are defined here. Each command has a file, which calls the admin API and
//! prints the result.
//!
//! Exit status: 0 done, 1 refused or failed, 2 wrong usage.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "commands print to the terminal"
)]

mod accounts;
mod alerts;
mod arguments;
mod audit;
mod check;
mod client;
mod command_error;
mod completions;
mod current_folder;
mod database;
mod demo;
mod explain;
mod fleet;
mod invite;
mod key_transfer;
mod keys;
mod man;
mod members;
mod mock_upstream;
mod output;
mod panel_link;
mod process_limits;
mod reload;
mod serve;
mod stale_keys;
mod start_error;
mod status;
mod supervisor;
mod usage;
mod usage_database;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::policy::key::KeyId;
use crate::policy::person::Role;
use crate::policy::time::UnixTime;
use crate::store::config::LogFormat;
use crate::store::config::parse::{self, Overrides};
use crate::store::fault::Fault;

use arguments::{AllowFromArg, BudgetArg, CeilingArg, ExpiryArg, LimitArg};

/// The text of `--version`: the version, and the hash of Cargo.lock, which identifies the versions of all libraries.
static BUILT_FROM: LazyLock<String> = LazyLock::new(|| {
    let lock = blake3::hash(include_bytes!("../../Cargo.lock")).to_hex();
    let version = env!("CARGO_PKG_VERSION");
    format!("{version} (Cargo.lock blake3:{lock})")
});

/// An API-key gateway in front of OpenAI-compatible LLM servers.
#[derive(Debug, Parser)]
#[command(name = "keygate", version, long_version = BUILT_FROM.as_str())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a demo on this machine: a built-in mock upstream, one key, and a gateway in front of it.
    Demo(DemoArgs),
    /// Run the gateway.
    Serve(ServeArgs),
    /// Read config and key file, print every fault of both, and start nothing.
    Check(CheckArgs),
    /// Make, list, change, rotate and delete keys.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Make, list, change and delete accounts: what all keys that name one may have at most.
    #[command(subcommand)]
    Accounts(AccountsCommand),
    /// List, change and remove the members of an account: the people who sign in to the panel for it.
    #[command(subcommand)]
    Members(MembersCommand),
    /// Invite a person to an account: print a link that works once, within seven days.
    Invite(InviteArgs),
    /// Have the gateway read key file, upstreams, prices and certificates again. Other settings need a restart.
    Reload(ReloadArgs),
    /// Show the gateway's state: keys, last reload, upstreams and their health.
    Status(StatusArgs),
    /// List the gateways that share the database, those that are behind first.
    Fleet(FleetArgs),
    /// Say whether a request would be allowed, and which rule decides.
    Explain(ExplainArgs),
    /// Try out the alerts that the gateway sends to a webhook.
    #[command(subcommand)]
    Alerts(AlertsCommand),
    /// Print a link to the gateway's panel that signs in once, within five minutes.
    PanelLink(PanelLinkArgs),
    /// Show who used how much: tokens, requests and cost, by day, key, account, model or upstream.
    Usage(UsageArgs),
    /// Show who changed what, newest first.
    Audit(AuditArgs),
    /// Look at the database that gateways share, and bring its schema forward.
    #[command(subcommand)]
    Database(DatabaseCommand),
    /// Print a script that completes keygate's commands in a shell.
    Completions(CompletionsArgs),
    /// Print the manual page.
    Man,
}

/// Arguments of `keygate demo`.
#[derive(Debug, Args)]
struct DemoArgs {}

/// Arguments of `keygate serve`.
#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    settings: SettingArgs,
    /// The form of log lines. Replaces the config's.
    #[arg(long, value_name = "FORM")]
    log_format: Option<LogFormatArg>,
}

impl ServeArgs {
    /// The config file, if any: the named one, else the first that exists in the usual places.
    ///
    /// # Errors
    /// The config file, or without one the admin socket, would be in a current folder that other users can write to.
    fn config_file(&self) -> Result<Option<PathBuf>, Fault> {
        let file = self.config.find()?;
        if file.is_none() && self.settings.socket.is_none() {
            current_folder::check(Path::new(client::DEFAULT_SOCKET), "--socket")?;
        }
        Ok(file)
    }

    /// The settings that replace those of the config file.
    #[must_use]
    fn overrides(&self) -> Overrides {
        Overrides {
            log_format: self.log_format.map(LogFormatArg::format),
            ..self.settings.overrides()
        }
    }
}

/// Settings that replace those of a config file, and stand in for a missing one.
#[derive(Debug, Args)]
struct SettingArgs {
    /// Where clients connect, like 127.0.0.1:8080 or unix:/path; may be repeated. Replaces the config's.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// An upstream's scheme and authority, like http://127.0.0.1:8000; may be repeated. Replaces the config's.
    #[arg(long = "upstream", value_name = "URL")]
    upstreams: Vec<String>,
    /// The key file. Replaces the config's.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// The admin socket. Replaces the config's.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl SettingArgs {
    fn overrides(&self) -> Overrides {
        Overrides {
            listen: self.listen.clone(),
            upstreams: self.upstreams.clone(),
            keys: self.keys.clone(),
            socket: self.socket.clone(),
            log_format: None,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormatArg {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormatArg {
    fn format(self) -> LogFormat {
        match self {
            Self::Text => LogFormat::Text,
            Self::Json => LogFormat::Json,
        }
    }
}

#[derive(Clone, Debug, Default, Args)]
struct ConfigArgs {
    /// The config file; else $KEYGATE_CONFIG, ./keygate.toml, /etc/keygate/keygate.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The config file, if any: the named one, else the first that exists in the usual places.
    ///
    /// # Errors
    /// It is found in a current folder that other users can write to.
    fn find(&self) -> Result<Option<PathBuf>, Fault> {
        let environment = std::env::var_os("KEYGATE_CONFIG").filter(|path| !path.is_empty());
        let found = parse::find(self.config.as_deref(), environment.as_deref());
        if let (Some(found), None, None) = (&found, &self.config, &environment) {
            current_folder::check(found, "--config")?;
        }
        Ok(found)
    }
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    settings: SettingArgs,
}

/// Which gateway to call.
#[derive(Clone, Debug, Args)]
struct GatewayArgs {
    /// The admin socket; else $KEYGATE_SOCKET, the config's, ./keygate.sock.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the admin API's JSON.
    #[arg(long)]
    json: bool,
}

/// Where the keys are.
#[derive(Clone, Debug, Args)]
struct KeysPlace {
    /// Work on this key file, with no gateway running.
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    keys: Option<PathBuf>,
    #[command(flatten)]
    gateway: GatewayArgs,
}

/// Whether to wait for the other gateways.
#[derive(Clone, Debug, Args)]
struct WaitArgs {
    /// Wait until the change is in force on all gateways that share the keys, at most for this time (1s to 60s). Exit status
    /// 1 where it is not, with the names of those gateways.
    #[arg(
        long, value_name = "TIME", value_parser = arguments::wait, num_args = 0..=1, require_equals = true,
        default_missing_value = "5s", conflicts_with = "keys"
    )]
    wait: Option<String>,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key; its bearer token is shown only once.
    Create(CreateArgs),
    /// List all keys, newest first.
    List(ListArgs),
    /// Show one key.
    Show(KeyArgs),
    /// Change a key.
    Update(UpdateArgs),
    /// Disable a key until it is enabled again.
    Disable(KeyChangeArgs),
    /// Enable a disabled key.
    Enable(KeyChangeArgs),
    /// Give a key a new token, shown only once; the old one works on for a while.
    Rotate(RotateArgs),
    /// End the token that the last rotation replaced.
    ExpirePrevious(KeyChangeArgs),
    /// Delete a key.
    Delete(DeleteArgs),
    /// Make the keys of a database that gateways share those of a key file.
    Import(ImportArgs),
    /// Print the keys of a database that gateways share as a key file, with their hashes.
    Export(ExportArgs),
    /// Print the hash of a token on standard input, for key files made elsewhere.
    Hash,
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// The key file. Keys of the database that it lacks are deleted.
    file: PathBuf,
    /// Only print what it would change.
    #[arg(long)]
    dry_run: bool,
    /// Import even if the file lacks more keys than keys.max_drop_percent allows, or brings back keys that were deleted.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
struct ExportArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Subcommand)]
enum DatabaseCommand {
    /// Bring the schema forward, as a gateway does at its start.
    Migrate(DatabaseArgs),
    /// Show where the database is, and how far its schema is.
    Status(DatabaseArgs),
}

#[derive(Debug, Args)]
struct DatabaseArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// A name for people.
    #[arg(long)]
    name: String,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    place: KeysPlace,
}

#[derive(Debug, Args)]
struct UpdateArgs {
    /// The key's id.
    #[arg(value_parser = arguments::id)]
    id: KeyId,
    /// The new name.
    #[arg(long)]
    name: Option<String>,
    /// Begin the key's budgets anew within their periods.
    #[arg(long, conflicts_with = "keys")]
    reset_budget: bool,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    place: KeysPlace,
}

/// What a key may do.
#[derive(Debug, Args)]
struct RuleArgs {
    /// Which models it may use: all, only those of --model, or all but those.
    #[arg(long, value_name = "MODE")]
    model_access: Option<AccessMode>,
    /// A model's name; may be repeated.
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    /// An IPv4 network or address it may be used from; may be repeated. 'any' for every address.
    #[arg(long, value_name = "NET", value_parser = arguments::source)]
    allow_from: Vec<AllowFromArg>,
    /// When it expires: 2027-01-31 (at the end of that day, UTC), an RFC 3339 time, 30d, 12h, or 'never'.
    #[arg(long, value_name = "WHEN", value_parser = arguments::expiry)]
    expires: Option<ExpiryArg>,
    /// The account that owns the key. Empty for none.
    #[arg(long)]
    account: Option<String>,
    /// Requests that may start in any 60 seconds. 'none' for any number, 'default' for the config's default.
    #[arg(long, value_name = "N", value_parser = arguments::limit)]
    requests_per_minute: Option<LimitArg>,
    /// Tokens of input and output in any 60 seconds. 'none', 'default' as above.
    #[arg(long, value_name = "N", value_parser = arguments::limit)]
    tokens_per_minute: Option<LimitArg>,
    /// Requests that may run at the same time. 'none', 'default' as above.
    #[arg(long, value_name = "N", value_parser = arguments::limit)]
    concurrent_requests: Option<LimitArg>,
    /// What may be used by day, week, month or in all (total), of tokens, requests, cost or audio_seconds: tokens=5M/month,
    /// cost=25.00/day; with ',observe' behind it nothing is refused. May be repeated. All budgets of the key are replaced by
    /// these; 'none' for no budget. K, M and G are thousands, millions and milliards.
    #[arg(long = "budget", value_name = "BUDGET", value_parser = arguments::budget)]
    budgets: Vec<BudgetArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AccessMode {
    /// Every model.
    All,
    /// Only those of --model.
    Inclusive,
    /// Every model but those of --model.
    Exclusive,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only keys that were neither used nor made for so long, like 90d or 12h.
    #[arg(long, value_name = "SPAN", value_parser = arguments::span, conflicts_with = "keys")]
    unused_for: Option<String>,
    #[command(flatten)]
    place: KeysPlace,
}

#[derive(Debug, Args)]
struct KeyArgs {
    /// The key's id.
    #[arg(value_parser = arguments::id)]
    id: KeyId,
    #[command(flatten)]
    place: KeysPlace,
}

#[derive(Debug, Args)]
struct KeyChangeArgs {
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Args)]
struct RotateArgs {
    /// The key's id.
    #[arg(value_parser = arguments::id)]
    id: KeyId,
    /// How long the old token works on, like 7d or 12h; at most 90d.
    #[arg(long, value_name = "SPAN", value_parser = arguments::grace, default_value = "24h", conflicts_with = "now")]
    grace: u32,
    /// End the old token at once.
    #[arg(long)]
    now: bool,
    /// Do not ask first where the token from before the last rotation still works, and would end.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    place: KeysPlace,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    /// The key's id.
    #[arg(value_parser = arguments::id)]
    id: KeyId,
    /// Do not ask first.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    place: KeysPlace,
}

#[derive(Debug, Subcommand)]
enum AccountsCommand {
    /// Make an account.
    Create(AccountCreateArgs),
    /// List all accounts.
    List(AccountListArgs),
    /// Show one account.
    Show(AccountArgs),
    /// Change an account; it holds for all of its keys at once.
    Update(AccountUpdateArgs),
    /// Refuse all keys of an account until it is enabled again.
    Disable(AccountArgs),
    /// Enable a disabled account.
    Enable(AccountArgs),
    /// Delete an account, with its keys.
    Delete(AccountDeleteArgs),
}

#[derive(Debug, Args)]
struct AccountCreateArgs {
    /// Its id, by which keys name it (--account). Made where it is absent.
    #[arg(value_parser = arguments::id)]
    id: Option<KeyId>,
    #[command(flatten)]
    ceilings: CeilingArgs,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
struct AccountListArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
struct AccountArgs {
    /// The account's id.
    #[arg(value_parser = arguments::id)]
    id: KeyId,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
struct AccountUpdateArgs {
    /// The account's id.
    #[arg(value_parser = arguments::id)]
    id: KeyId,
    #[command(flatten)]
    ceilings: CeilingArgs,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
struct AccountDeleteArgs {
    /// The account's id.
    #[arg(value_parser = arguments::id)]
    id: KeyId,
    /// How many keys it has, which are deleted with it.
    #[arg(long, value_name = "N")]
    keys: Option<u32>,
    /// Do not ask first.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Subcommand)]
enum MembersCommand {
    /// List the members of an account.
    List(MemberListArgs),
    /// Give a member another role; the member signs in anew.
    Role(MemberRoleArgs),
    /// Remove a member; the sessions end at once, and the keys that the member created stay.
    Remove(MemberArgs),
    /// Print a link by which a member sets a new password, once and within seven days.
    ResetPassword(MemberArgs),
}

#[derive(Debug, Args)]
struct MemberListArgs {
    /// The account's id.
    #[arg(value_parser = arguments::account_id)]
    account: KeyId,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
struct MemberArgs {
    /// The account's id.
    #[arg(value_parser = arguments::account_id)]
    account: KeyId,
    /// The member's e-mail address, or the id that 'keygate members list' shows.
    #[arg(value_name = "PERSON_OR_EMAIL")]
    person: String,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
struct MemberRoleArgs {
    /// The account's id.
    #[arg(value_parser = arguments::account_id)]
    account: KeyId,
    /// The member's e-mail address, or the id that 'keygate members list' shows.
    #[arg(value_name = "PERSON_OR_EMAIL")]
    person: String,
    /// The new role.
    role: RoleArg,
    #[command(flatten)]
    gateway: GatewayArgs,
}

/// What a member may do in an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RoleArg {
    /// See keys, usage and models of the account.
    Viewer,
    /// Also create keys, and change, rotate and delete those that they created.
    Member,
    /// Also do so with all keys of the account, invite and remove members, and see what was done in it.
    Owner,
}

impl RoleArg {
    fn role(self) -> Role {
        match self {
            Self::Viewer => Role::Viewer,
            Self::Member => Role::Member,
            Self::Owner => Role::Owner,
        }
    }
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct InviteArgs {
    #[command(subcommand)]
    command: Option<InviteCommand>,
    /// The account's id.
    #[arg(required = true, value_parser = arguments::account_id)]
    account: Option<KeyId>,
    /// The person's e-mail address.
    #[arg(required = true)]
    email: Option<String>,
    /// What the person may do in the account.
    #[arg(long, value_enum, default_value_t = RoleArg::Member)]
    role: RoleArg,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Subcommand)]
enum InviteCommand {
    /// List the open invitations of an account, newest first.
    List(MemberListArgs),
    /// Take an open invitation back; its link gives nothing any more.
    Revoke(InviteRevokeArgs),
}

#[derive(Debug, Args)]
struct InviteRevokeArgs {
    /// The account's id.
    #[arg(value_parser = arguments::account_id)]
    account: KeyId,
    /// The invitation's id, which 'keygate invite list' shows.
    #[arg(value_parser = arguments::invitation_id)]
    invitation: KeyId,
    #[command(flatten)]
    gateway: GatewayArgs,
}

/// What the keys of an account may have at most.
#[derive(Debug, Args)]
struct CeilingArgs {
    /// A name for people. Empty for none.
    #[arg(long)]
    name: Option<String>,
    /// Which models its keys may use at most: all, only those of --model, or all but those.
    #[arg(long, value_name = "MODE")]
    model_access: Option<AccessMode>,
    /// A model's name; may be repeated.
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    /// An IPv4 network or address its keys may be used from; may be repeated. 'any' for every address.
    #[arg(long, value_name = "NET", value_parser = arguments::source)]
    allow_from: Vec<AllowFromArg>,
    /// How many keys it may have. 'none' for any number.
    #[arg(long, value_name = "N", value_parser = arguments::ceiling)]
    max_keys: Option<CeilingArg>,
    /// How many days each of its keys may live. 'none' for any number.
    #[arg(long, value_name = "DAYS", value_parser = arguments::ceiling)]
    max_key_days: Option<CeilingArg>,
    /// Requests of all of its keys that may start in any 60 seconds. 'none' for any number.
    #[arg(long, value_name = "N", value_parser = arguments::limit)]
    requests_per_minute: Option<LimitArg>,
    /// Tokens of input and output of all of its keys in any 60 seconds. 'none' as above.
    #[arg(long, value_name = "N", value_parser = arguments::limit)]
    tokens_per_minute: Option<LimitArg>,
    /// Requests of all of its keys that may run at the same time. 'none' as above.
    #[arg(long, value_name = "N", value_parser = arguments::limit)]
    concurrent_requests: Option<LimitArg>,
    /// What all of its keys may use together, in the form of the keys' --budget. May be repeated; 'none' for no budget.
    #[arg(long = "budget", value_name = "BUDGET", value_parser = arguments::budget)]
    budgets: Vec<BudgetArg>,
}

#[derive(Debug, Args)]
struct ReloadArgs {
    /// Reload even if the key file drops more keys than keys.max_drop_percent allows.
    #[arg(long)]
    force: bool,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
struct FleetArgs {
    #[command(subcommand)]
    command: Option<FleetCommand>,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Subcommand)]
enum FleetCommand {
    /// Follow a database that lacks changes which the gateways have seen, such as one restored from a backup. Keys that were
    /// deleted since may work again.
    AcceptRollback(AcceptRollbackArgs),
}

#[derive(Debug, Args)]
struct AcceptRollbackArgs {
    /// Only print what it would change.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask first.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Subcommand)]
enum AlertsCommand {
    /// Send an alert that says nothing, and print what became of it.
    Test(AlertTestArgs),
}

#[derive(Debug, Args)]
struct AlertTestArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
struct PanelLinkArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// The model that the request names.
    #[arg(long)]
    model: String,
    /// The address it comes from.
    #[arg(long, value_name = "IP")]
    from: std::net::IpAddr,
    /// The key's id; without it, a bearer token is read from standard input.
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// The time of the request, in RFC 3339. Default: now.
    #[arg(long, value_name = "TIME", value_parser = arguments::time)]
    at: Option<UnixTime>,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
struct UsageArgs {
    #[command(subcommand)]
    command: Option<UsageCommand>,
    /// What each line is about.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = UsageBy::Day)]
    by: UsageBy,
    #[command(flatten)]
    filters: UsageFilters,
    #[command(flatten)]
    form: UsageForm,
}

#[derive(Debug, Subcommand)]
enum UsageCommand {
    /// Show single requests, newest first.
    Records(UsageRecordsArgs),
}

#[derive(Debug, Args)]
struct UsageRecordsArgs {
    /// Only requests that ended so.
    #[arg(long, value_name = "HOW")]
    end: Option<UsageEnd>,
    /// At most so many.
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    filters: UsageFilters,
    #[command(flatten)]
    form: UsageForm,
}

/// Whose usage, and when.
#[derive(Debug, Args)]
struct UsageFilters {
    /// Since when: 7d, 24h, 2026-11-01 (from the start of that day, UTC), or an RFC 3339 time. Sums begin at that day's
    /// start, 7 days ago unless asked.
    #[arg(long, value_name = "WHEN", value_parser = arguments::since)]
    from: Option<UnixTime>,
    /// Until when, in the same forms; a date counts to the end of that day. Default: now.
    #[arg(long, value_name = "WHEN", value_parser = arguments::until)]
    to: Option<UnixTime>,
    /// Only this key, by its id; may be repeated.
    #[arg(long = "key", value_name = "ID", value_parser = arguments::id)]
    keys: Vec<KeyId>,
    /// Only this account.
    #[arg(long)]
    account: Option<String>,
    /// Only this model.
    #[arg(long)]
    model: Option<String>,
    /// Only this upstream.
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
}

/// In which form usage is printed, and which gateway is asked.
#[derive(Debug, Args)]
struct UsageForm {
    /// Print CSV.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    gateway: GatewayArgs,
}

/// What each line of a table of usage is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum UsageBy {
    /// A key.
    Key,
    /// An account.
    Account,
    /// A model.
    Model,
    /// An upstream.
    Upstream,
    /// A day, in UTC.
    Day,
}

impl UsageBy {
    /// Its name in the admin API.
    fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Account => "account",
            Self::Model => "model",
            Self::Upstream => "upstream",
            Self::Day => "day",
        }
    }

    fn heading(self) -> &'static str {
        match self {
            Self::Key => "KEY",
            Self::Account => "ACCOUNT",
            Self::Model => "MODEL",
            Self::Upstream => "UPSTREAM",
            Self::Day => "DAY",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum UsageEnd {
    /// The client got all of it.
    Complete,
    /// The client left.
    #[value(alias = "client_left")]
    ClientLeft,
    /// The key was revoked.
    Revoked,
    /// The upstream failed.
    #[value(alias = "upstream_failed")]
    UpstreamFailed,
}

impl UsageEnd {
    /// Its name in the admin API.
    fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientLeft => "client_left",
            Self::Revoked => "revoked",
            Self::UpstreamFailed => "upstream_failed",
        }
    }
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
struct AuditArgs {
    #[command(subcommand)]
    command: Option<AuditCommand>,
    #[command(flatten)]
    list: AuditListArgs,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Check that all rows are as they were written; name the first that is not. Exit status 1 if there is one.
    Verify(AuditVerifyArgs),
}

#[derive(Debug, Args)]
struct AuditVerifyArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
struct AuditListArgs {
    /// Only changes of this key, by its id; also the reloads that changed it.
    #[arg(long, value_name = "ID", value_parser = arguments::id)]
    key: Option<KeyId>,
    /// Only changes by this actor, like 'uid 1000' or operator.
    #[arg(long)]
    actor: Option<String>,
    /// Only this action, like create, change, delete, reload or sign_in_failed.
    #[arg(long)]
    action: Option<String>,
    /// Since when: 7d, 24h, 2026-11-01 (from the start of that day, UTC), or an RFC 3339 time.
    #[arg(long, value_name = "WHEN", value_parser = arguments::since)]
    from: Option<UnixTime>,
    /// Until when, in the same forms; a date counts to the end of that day. Default: now.
    #[arg(long, value_name = "WHEN", value_parser = arguments::until)]
    to: Option<UnixTime>,
    /// At most so many.
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Print CSV.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Args)]
struct CompletionsArgs {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Runs the command that the arguments of the process name.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return output::usage(&usage),
    };
    let done = match &cli.command {
        Command::Serve(args) => return serve::run(args),
        Command::Demo(_) => return demo::run(),
        Command::Check(args) => check::run(args),
        Command::Keys(command) => keys::run(command),
        Command::Accounts(command) => accounts::run(command),
        Command::Members(command) => members::run(command),
        Command::Invite(args) => invite::run(args),
        Command::Reload(args) => reload::run(args),
        Command::Status(args) => status::run(args),
        Command::Fleet(args) => fleet::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Alerts(command) => alerts::run(command),
        Command::PanelLink(args) => panel_link::run(args),
        Command::Usage(args) => usage::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Database(command) => database::run(command),
        Command::Completions(args) => completions::run(args),
        Command::Man => man::run(),
    };
    done.unwrap_or_else(|error| error.report())
}
