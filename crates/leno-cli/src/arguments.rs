//! The command line, as one definition that feeds parser, help and tests.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::member::MemberArguments;

/// Leno: a service mesh in one binary.
#[derive(Debug, Parser)]
#[command(name = "leno", version, about, max_term_width = 110, disable_help_subcommand = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the control plane's API is, and who is asking.
#[derive(Debug, Clone, Args)]
pub struct ApiArguments {
    /// The control plane's API, http://HOST:PORT.
    #[arg(
        long = "api-url",
        env = "LENO_API",
        default_value = "http://127.0.0.1:15101",
        global = true,
        hide_default_value = false
    )]
    pub url: String,
    /// File with the admin token; found by itself on the control plane's host.
    #[arg(long, env = "LENO_ADMIN_TOKEN_FILE", global = true)]
    pub admin_token_file: Option<PathBuf>,
}

/// A command that asks the control plane's API, with what is particular to it.
#[derive(Debug, Args)]
pub struct Operator<T: Args> {
    /// How the API is found.
    #[command(flatten)]
    pub api: ApiArguments,
    /// The command's own.
    #[command(flatten)]
    pub what: T,
}

/// Everything `leno` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole mesh with a small shop, load and a live view; no root needed
    Demo(DemoArguments),
    /// Run the control plane: API, registry, certificate authority, discovery
    ControlPlane(Box<ControlPlaneArguments>),
    /// Run a program as a member of the mesh, with a proxy beside it
    Run(Box<RunArguments>),
    /// Run a proxy alone, for a program that is started otherwise
    Proxy(Box<ProxyArguments>),
    /// Make and list join tokens
    Token(Operator<TokenArguments>),
    /// Create or change resources from YAML or JSON
    Apply(Operator<ApplyArguments>),
    /// Delete resources by file or by kind and name
    Delete(Operator<DeleteArguments>),
    /// Show resources of a kind
    Get(Operator<GetArguments>),
    /// Show one resource with its status and what is attached to it
    Describe(Operator<DescribeArguments>),
    /// Check files without a control plane
    Lint(LintArguments),
    /// Explain a kind or one of its fields
    Explain(ExplainArguments),
    /// Show members, services and what is wrong
    Status(Operator<StatusArguments>),
    /// Show and rotate the certificate authority
    Ca(Operator<CaArguments>),
    /// Revoke an identity or a certificate's serial number
    Revoke(Operator<RevokeArguments>),
    /// One service of the demo's shop
    #[command(hide = true)]
    DemoApp(DemoAppArguments),
}

impl Command {
    /// Whether it runs until it is told to end, rather than printing an answer.
    #[must_use]
    pub fn is_long_running(&self) -> bool {
        matches!(self, Self::Demo(_) | Self::ControlPlane(_) | Self::Run(_) | Self::Proxy(_) | Self::DemoApp(_))
    }
}

/// Arguments of `leno demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Requests per second that the load generator sends into the shop
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub rate: u32,
    /// End by itself after this many seconds
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Print one JSON line a second instead of the live view
    #[arg(long)]
    pub json: bool,
}

/// Arguments of the hidden `leno demo-app`.
#[derive(Debug, Args)]
pub struct DemoAppArguments {
    /// Name of the service
    #[arg(long)]
    pub name: String,
    /// Version it says it is
    #[arg(long, default_value = "v1")]
    pub version_label: String,
    /// Address to listen on
    #[arg(long)]
    pub listen: SocketAddr,
    /// Service it calls for each request, at the local port that `leno run` announces
    #[arg(long = "call", value_name = "SERVICE")]
    pub calls: Vec<String>,
    /// Share of requests answered with 503, in percent
    #[arg(long, default_value_t = 0)]
    pub fail_percent: u32,
    /// Mean time to answer, in milliseconds
    #[arg(long, default_value_t = 2)]
    pub latency_ms: u64,
}

/// Arguments of `leno control-plane`.
#[derive(Debug, Args)]
pub struct ControlPlaneArguments {
    /// Store, certificate authority, audit log and admin token; made if missing
    #[arg(long, env = "LENO_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// REST API address
    #[arg(long, default_value = "127.0.0.1:15101")]
    pub api: SocketAddr,
    /// Discovery address that proxies join
    #[arg(long, default_value = "0.0.0.0:15100")]
    pub discovery: SocketAddr,
    /// Trust domain; fixed at the first start
    #[arg(long)]
    pub trust_domain: Option<String>,
    /// Lifetime of workload certificates, e.g. 24h
    #[arg(long, default_value = "24h", value_parser = crate::member::duration)]
    pub leaf_ttl: std::time::Duration,
    /// How long a lost registration is kept
    #[arg(long, default_value = "30s", value_parser = crate::member::duration)]
    pub registration_grace: std::time::Duration,
    /// Host name, beside addresses and localhost, that requests to the API may name (against DNS rebinding)
    #[arg(long = "api-host", value_name = "NAME")]
    pub api_hosts: Vec<String>,
    /// Print the addresses as one JSON line when ready
    #[arg(long, value_enum)]
    pub announce: Option<AnnounceFormat>,
}

/// How addresses are announced.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum AnnounceFormat {
    /// One JSON line on standard output.
    Json,
}

/// Arguments of `leno run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// What the member is.
    #[command(flatten)]
    pub member: MemberArguments,
    /// How long the program, and then what it left behind, may take to end after SIGTERM before it is killed
    #[arg(long, default_value = "10s", value_parser = crate::member::duration)]
    pub stop_grace: std::time::Duration,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub child: Vec<std::ffi::OsString>,
}

/// Arguments of `leno proxy`.
#[derive(Debug, Args)]
pub struct ProxyArguments {
    /// What the member is.
    #[command(flatten)]
    pub member: MemberArguments,
    /// NAME=FD: use an inherited listening descriptor for hop, admin, forward or upstream-N
    #[arg(long = "listen-fd", value_name = "NAME=FD", hide = true)]
    pub listen_fds: Vec<String>,
    /// Print the addresses as one JSON line when ready
    #[arg(long, value_enum)]
    pub announce: Option<AnnounceFormat>,
    /// Started by `leno run`: end with it, and keep outbound open until standard input closes
    #[arg(long, hide = true)]
    pub supervised: bool,
    /// Set for the successor of a running proxy, by `leno run`
    #[arg(long, hide = true)]
    pub replaces: bool,
}

/// Arguments of `leno token`.
#[derive(Debug, Args)]
pub struct TokenArguments {
    /// What to do with tokens.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// Subcommands of `leno token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Print a new single-use join token, alone, on standard output
    Create(TokenCreateArguments),
    /// List tokens without their secrets
    List(ListArguments),
}

/// Arguments of `leno token create`.
#[derive(Debug, Args)]
pub struct TokenCreateArguments {
    /// Service the member may register; several may be given
    #[arg(long = "service", required = true)]
    pub services: Vec<String>,
    /// Namespace
    #[arg(long, short = 'n', default_value = "default")]
    pub namespace: String,
    /// Service account; the first service's name when absent
    #[arg(long)]
    pub service_account: Option<String>,
    /// How long the token may be redeemed
    #[arg(long, default_value = "1h", value_parser = crate::member::duration)]
    pub ttl: std::time::Duration,
}

/// Output of list commands.
#[derive(Debug, Clone, Args)]
pub struct ListArguments {
    /// Format
    #[arg(long, short = 'o', value_enum, default_value_t = OutputFormat::Table)]
    pub output: OutputFormat,
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum OutputFormat {
    /// Columns.
    Table,
    /// YAML that `leno apply` takes again.
    Yaml,
    /// JSON.
    Json,
}

/// Arguments of `leno apply`.
#[derive(Debug, Args)]
pub struct ApplyArguments {
    /// File, directory (its .yaml, .yml and .json files) or - for standard input
    #[arg(long = "file", short = 'f', required = true)]
    pub files: Vec<PathBuf>,
    /// Namespace of resources that name none
    #[arg(long, short = 'n')]
    pub namespace: Option<String>,
    /// Validate and say what would change, without changing it
    #[arg(long)]
    pub dry_run: bool,
    /// Format
    #[arg(long, short = 'o', value_enum, default_value_t = OutputFormat::Table)]
    pub output: OutputFormat,
}

/// Arguments of `leno delete`.
#[derive(Debug, Args)]
pub struct DeleteArguments {
    /// File, directory or - for standard input
    #[arg(long = "file", short = 'f', conflicts_with_all = ["kind", "name"])]
    pub files: Vec<PathBuf>,
    /// Kind
    #[arg(required_unless_present = "files", requires = "name")]
    pub kind: Option<String>,
    /// Name
    pub name: Option<String>,
    /// Namespace
    #[arg(long, short = 'n', default_value = "default")]
    pub namespace: String,
}

/// Arguments of `leno get`.
#[derive(Debug, Args)]
pub struct GetArguments {
    /// Kind, plural or short name: services, endpoints, members, httproutes, …
    pub kind: String,
    /// Name; all when absent
    pub name: Option<String>,
    /// Namespace
    #[arg(long, short = 'n', default_value = "default", conflicts_with = "all_namespaces")]
    pub namespace: String,
    /// All namespaces
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// Keep printing changes
    #[arg(long, short = 'w')]
    pub watch: bool,
    /// Format
    #[arg(long, short = 'o', value_enum, default_value_t = OutputFormat::Table)]
    pub output: OutputFormat,
}

/// Arguments of `leno describe`.
#[derive(Debug, Args)]
pub struct DescribeArguments {
    /// Kind
    pub kind: String,
    /// Name
    pub name: String,
    /// Namespace
    #[arg(long, short = 'n', default_value = "default")]
    pub namespace: String,
    /// Format
    #[arg(long, short = 'o', value_enum, default_value_t = OutputFormat::Table)]
    pub output: OutputFormat,
}

/// Arguments of `leno lint`.
#[derive(Debug, Args)]
pub struct LintArguments {
    /// Files, directories or - for standard input
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Format
    #[arg(long, short = 'o', value_enum, default_value_t = OutputFormat::Table)]
    pub output: OutputFormat,
}

/// Arguments of `leno explain`.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// KIND or KIND.field.field, e.g. trafficpolicy.spec.retries
    pub path: String,
}

/// Arguments of `leno status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Wait so long for a control plane that has just been started
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = crate::member::duration)]
    pub wait: std::time::Duration,
    /// Format
    #[arg(long, short = 'o', value_enum, default_value_t = OutputFormat::Table)]
    pub output: OutputFormat,
}

/// Arguments of `leno ca`.
#[derive(Debug, Args)]
pub struct CaArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: CaCommand,
}

/// Subcommands of `leno ca`.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Show roots and where a rotation stands
    Status(StatusArguments),
    /// Make a new root, distribute it, issue from it, retire the old one
    Rotate,
}

/// Arguments of `leno revoke`.
#[derive(Debug, Args)]
pub struct RevokeArguments {
    /// A SPIFFE ID, or a certificate's serial number in hexadecimal
    pub subject: String,
    /// Why; kept in the audit log
    #[arg(long)]
    pub reason: Option<String>,
    /// Take the revocation back
    #[arg(long)]
    pub undo: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_default_to_the_meshs_defaults() {
        let arguments = Arguments::try_parse_from(["leno", "control-plane"]).unwrap();
        let Command::ControlPlane(plane) = arguments.command else { panic!("not control-plane") };
        assert_eq!(plane.leaf_ttl, leno_plan::defaults::LEAF_TTL);
        assert_eq!(plane.registration_grace, leno_plan::defaults::REGISTRATION_GRACE);
    }

    #[test]
    fn only_commands_that_ask_the_api_take_its_address() {
        for (line, fits) in [
            ("leno token create --service web --api-url http://127.0.0.1:1", true),
            ("leno get --api-url http://127.0.0.1:1 services", true),
            ("leno status --admin-token-file f", true),
            ("leno proxy --service web --join 127.0.0.1:1 --api-url http://127.0.0.1:1", false),
            ("leno lint f.yaml --api-url http://127.0.0.1:1", false),
        ] {
            assert_eq!(Arguments::try_parse_from(line.split_whitespace()).is_ok(), fits, "{line}");
        }
    }

    #[test]
    fn the_documented_run_line_parses() {
        let line = "leno run --service web --port 8080 --protocol http --labels version=v2,tier=front \
                    --join 10.0.0.1:15100 --token leno1.a.b.c --upstream api=9000 --upstream db:5432=9001 -- nginx -g x";
        let arguments = Arguments::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Run(run) = arguments.command else { panic!("not run") };
        assert_eq!(run.child.len(), 3);
        assert_eq!(run.member.upstreams.len(), 2);
    }
}
