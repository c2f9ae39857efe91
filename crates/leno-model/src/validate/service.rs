//! `Service` and `ExternalService`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{label, text};
use crate::diagnostic::Code;
use crate::kinds::service::{TargetPort, Transport};
use crate::kinds::{ExternalServiceSpec, ServiceSpec};
use crate::names::AppProtocol;
use crate::path::FieldPath;
use crate::resource::Resource;
use crate::schema::{Findings, nearest};
use crate::yaml::clip;

/// Judges a Service.
pub fn service(spec: &ServiceSpec, _: &Resource, path: &FieldPath, findings: &mut Findings<'_>) {
    let ports = path.key("ports");
    if spec.ports.is_empty() {
        findings.error(Code::MissingField, &ports, "a service needs at least one port");
    }
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in spec.ports.iter().enumerate() {
        let path = ports.index(index);
        if !numbers.insert((port.port, port.protocol == Transport::Tcp)) {
            findings.error(Code::InvalidValue, &path.key("port"), format!("port {} is there twice", port.port));
        }
        match &port.name {
            None if spec.ports.len() > 1 => {
                findings.error(Code::MissingField, &path.key("name"), "required if there are several ports");
            }
            None => {}
            Some(name) => {
                label(name, &path.key("name"), findings);
                if !names.insert(name) {
                    findings.error(Code::InvalidValue, &path.key("name"), format!("`{}` is there twice", clip(name)));
                }
            }
        }
        match &port.target_port {
            Some(TargetPort::Number(0)) => {
                findings.error(Code::InvalidValue, &path.key("targetPort"), "0 is not a port");
            }
            Some(TargetPort::Name(name)) => label(name, &path.key("targetPort"), findings),
            _ => {}
        }
        if port.protocol != Transport::Tcp {
            let message = "the mesh carries TCP; this port is left out";
            findings.warning(Code::UnsupportedValue, &path.key("protocol"), message);
        }
        if let Some(protocol) = &port.app_protocol {
            app_protocol(protocol, &path.key("appProtocol"), findings);
        }
    }
}

/// Kubernetes permits any name here, so that one we do not know is opaque, not wrong; but one that is nearly ours is a slip.
fn app_protocol(word: &str, path: &FieldPath, findings: &mut Findings<'_>) {
    if word.parse::<AppProtocol>().is_ok() {
        return;
    }
    let suggestion = if word == "https" { None } else { nearest(word, AppProtocol::ALL.iter().map(|p| p.as_str())) };
    match suggestion {
        Some(suggestion) => {
            let message = format!("unknown protocol `{}`; did you mean `{suggestion}`?", clip(word));
            findings.error(Code::InvalidValue, path, message);
        }
        None => {
            let message = format!("`{}` is carried as opaque bytes, like `tcp`", clip(word));
            findings.warning(Code::UnsupportedValue, path, message);
        }
    }
}

/// Judges an ExternalService.
pub fn external_service(spec: &ExternalServiceSpec, _: &Resource, path: &FieldPath, findings: &mut Findings<'_>) {
    for (index, host) in spec.hosts.iter().enumerate() {
        let name = host.strip_prefix("*.").unwrap_or(host);
        let fine = (text::is_host(name) && !name.is_empty()) || host.parse::<IpAddr>().is_ok();
        if !fine {
            let message =
                format!("`{}` is not a lower-case host name, an address, or `*.` and a host name", clip(host));
            findings.error(Code::InvalidValue, &path.key("hosts").index(index), message);
        }
    }
}
