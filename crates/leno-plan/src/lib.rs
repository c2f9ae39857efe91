//! What a proxy executes, as data, and how it decides.
//!
//! *Owns*: the plans that `leno-compile` makes and a proxy runs (destinations, routes, access, inbound ports), and every
//! decision on them: which rule, which backend, which endpoint, may this caller, may we retry, who is ejected.
//!
//! *Must not know*: user syntax, protobuf, sockets, tasks. Time and chance are arguments.
//!
//! *Start reading at*: [`destination`], then [`route`] and [`balance`]; [`access`] for the inbound side.

pub mod access;
pub mod balance;
pub mod defaults;
pub mod destination;
pub mod ejection;
pub mod filter;
pub mod host;
mod lookup;
pub mod matching;
pub mod names;
pub mod path;
pub mod request;
pub mod resilience;
pub mod route;
pub mod scope;

pub use access::{AccessPlan, AccessRule, CallerMatch, Decision, DefaultAccess, RequestMatch};
pub use balance::{Algorithm, BalancePolicy, Balancer, InFlight, Part};
pub use destination::{
    CallPolicy, DestinationPlan, DestinationPort, Endpoint, EndpointSet, InboundPlan, InboundPort, Transport,
};
pub use ejection::{EjectionPolicy, EndpointHealth, Outcome, ServiceHealth};
pub use filter::{Filter, HeaderEdit, HeaderEditor, PathModifier, Redirect, Rewrite};
pub use matching::{HeaderMatch, Literal, Pattern, PatternError, QueryMatch, TextMatch};
pub use request::{HeaderSource, NoHeaders, RequestView};
pub use resilience::{Limits, RetryBudgetPolicy, RetryPolicy, Timeouts};
pub use route::{
    Backend, BackendTarget, PathMatch, RouteChoice, RouteEntry, RouteMatch, RouteRule, RouteTable, RouteTimeouts,
    TimeoutSetting,
};
pub use scope::{EgressHost, EgressName, EgressPolicy, IpPrefix};
