//! Envoy as a pair: HTTP/2 with mutual TLS between them, one worker each.

use std::path::Path;

use serde_json::{Value, json};
use testbed::Network;

use super::certificates::Certificates;

/// The far proxy's command, then the near one's.
pub fn commands(
    network: &Network,
    c: &Certificates,
    binary: &Path,
    near: &str,
    far: &str,
    app: &str,
) -> [Vec<String>; 2] {
    let common = json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": {"filename": c.leaf}, "private_key": {"filename": c.key}}],
        "validation_context": {"trusted_ca": {"filename": c.root}},
    });
    let mut down = common.clone();
    down["alpn_protocols"] = json!(["h2"]);
    let server_tls =
        socket("DownstreamTlsContext", json!({"require_client_certificate": true, "common_tls_context": down}));
    let client_tls = socket("UpstreamTlsContext", json!({"sni": "peer", "common_tls_context": common}));
    let http2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}}}});
    let far_config = config(far, app, Some(server_tls), None, None);
    let near_config = config(near, far, None, Some(client_tls), Some(http2));
    [command(network, binary, "far", &far_config, 0), command(network, binary, "near", &near_config, 1)]
}

fn socket(kind: &str, mut context: Value) -> Value {
    context["@type"] = json!(format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}"));
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

fn address(text: &str) -> Value {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "0"));
    json!({"socket_address": {"address": host, "port_value": port.parse::<u16>().unwrap_or(0)}})
}

fn config(listen: &str, target: &str, server: Option<Value>, client: Option<Value>, options: Option<Value>) -> Value {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in", "codec_type": "AUTO", "generate_request_id": false,
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config":
            {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "0s"}}]}]},
    });
    let mut chain =
        json!({"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]});
    if let Some(server) = server {
        chain["transport_socket"] = server;
    }
    let mut cluster = json!({
        "name": "next", "type": "STATIC", "connect_timeout": "2s",
        "circuit_breakers": {"thresholds": [{"max_connections": 10000, "max_pending_requests": 10000, "max_requests": 10000}]},
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(target)}}]}]},
    });
    if let Some(client) = client {
        cluster["transport_socket"] = client;
    }
    if let Some(options) = options {
        cluster["typed_extension_protocol_options"] = options;
    }
    json!({"static_resources": {
        "listeners": [{"name": "in", "address": address(listen), "filter_chains": [chain]}], "clusters": [cluster]}})
}

fn command(network: &Network, binary: &Path, name: &str, config: &Value, base: u32) -> Vec<String> {
    let file = network.subfolder("envoy").join(format!("{name}.json"));
    std::fs::write(&file, config.to_string()).expect("writing into our own folder");
    let base = (u32::from(u16::try_from(std::process::id() % 30_000).unwrap_or(0)) + base).to_string();
    [
        &binary.display().to_string(),
        "-c",
        &file.display().to_string(),
        "--concurrency",
        "1",
        "-l",
        "warn",
        "--base-id",
        &base,
    ]
    .map(str::to_owned)
    .to_vec()
}
