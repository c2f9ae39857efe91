//! Services made from registrations: nobody has to write a Service to try the mesh.

use std::sync::Arc;

use leno_model::kinds::ServiceSpec;
use leno_model::kinds::service::{ServicePort, TargetPort, Transport};
use leno_model::{Kind, NamespacedName, Resource};
use leno_runtime::clock::Clock;
use leno_store::{Expect, Key, Store, StoreError};

use super::admission::RegisteredService;
use crate::apply::stamp_new;
use crate::records::RecordError;

/// Marks a Service that was made from registrations; one that a user wrote is never touched.
pub const FROM_REGISTRATION: &str = "leno.dev/created-from-registration";
/// Attempts against other writers.
const MAX_ATTEMPTS: usize = 8;

/// Makes the Service of a registration if there is none, or adds its ports to one that was made so.
pub async fn ensure(
    store: &dyn Store,
    clock: &Arc<dyn Clock>,
    namespace: &str,
    service: &RegisteredService,
) -> Result<(), RecordError> {
    if service.ports.is_empty() {
        // A member that only calls others: a Service without ports would say nothing.
        return Ok(());
    }
    let key = Key::new(Kind::Service.as_str(), namespace, &service.name);
    for _ in 0..MAX_ATTEMPTS {
        let found = store.get(&key).await?;
        let (resource, expect) = match &found {
            None => match created(namespace, service, clock.unix_seconds()) {
                Some(resource) => (resource, Expect::Absent),
                None => return Ok(()),
            },
            Some(record) => {
                let resource = Resource::from_json(&record.value)
                    .map_err(|source| RecordError::Damaged { key: key.clone(), source })?;
                match extended(resource, service) {
                    Some(resource) => (resource, Expect::Version(record.version.clone())),
                    None => return Ok(()),
                }
            }
        };
        match store.put(&key, resource.to_json().into(), expect).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(RecordError::Contended(key))
}

fn ports(service: &RegisteredService) -> Vec<ServicePort> {
    let several = service.ports.len() > 1;
    let number = |n: u32| u16::try_from(n).unwrap_or(0);
    let port = |p: &super::admission::RegisteredPort| {
        // Several ports of a Service need names.
        let name = match (p.name.as_str(), several) {
            ("", true) => Some(format!("port-{}", p.port)),
            ("", false) => None,
            (name, _) => Some(name.to_owned()),
        };
        ServicePort {
            name,
            protocol: Transport::Tcp,
            port: number(p.port),
            target_port: (p.target_port != 0 && p.target_port != p.port)
                .then(|| TargetPort::Number(number(p.target_port))),
            app_protocol: (!p.protocol.is_empty()).then(|| p.protocol.clone()),
        }
    };
    service.ports.iter().map(port).collect()
}

fn created(namespace: &str, service: &RegisteredService, now: u64) -> Option<Resource> {
    let name = NamespacedName::new(namespace, &service.name).ok()?;
    let mut resource = Resource::new(&name, &ServiceSpec { ports: ports(service), ..ServiceSpec::default() });
    resource.metadata.annotations.insert(FROM_REGISTRATION.into(), "true".into());
    stamp_new(&mut resource, now);
    Some(resource)
}

/// None if there is nothing to add or it is not ours to change.
fn extended(mut resource: Resource, service: &RegisteredService) -> Option<Resource> {
    if resource.metadata.annotations.get(FROM_REGISTRATION).map(String::as_str) != Some("true") {
        return None;
    }
    let mut spec = resource.spec::<ServiceSpec>().ok()?;
    let mut added = false;
    for mut port in ports(service) {
        if spec.ports.iter().any(|p| p.port == port.port) {
            continue;
        }
        if port.name.is_none() || spec.ports.iter().any(|p| p.name == port.name) {
            port.name = Some(format!("port-{}", port.port));
        }
        spec.ports.push(port);
        added = true;
    }
    if !added {
        return None;
    }
    if spec.ports.len() > 1 {
        for port in spec.ports.iter_mut().filter(|p| p.name.is_none()) {
            port.name = Some(format!("port-{}", port.port));
        }
    }
    resource.spec = serde_json::to_value(&spec).ok()?;
    resource.metadata.generation += 1;
    Some(resource)
}

#[cfg(test)]
mod tests {
    use super::super::admission::RegisteredPort;
    use super::*;

    fn service(ports: &[u32]) -> RegisteredService {
        let port =
            |p: &u32| RegisteredPort { port: *p, target_port: 8080, protocol: "http".into(), name: String::new() };
        RegisteredService { name: "web".into(), ports: ports.iter().map(port).collect() }
    }

    #[test]
    fn a_made_service_is_valid_and_grows_with_its_registrations() {
        let made = created("shop", &service(&[80]), 5).unwrap();
        assert_eq!(leno_model::check(&made), []);
        assert_eq!(extended(made.clone(), &service(&[80])), None);
        let grown = extended(made.clone(), &service(&[80, 81])).unwrap();
        assert_eq!(leno_model::check(&grown), []);
        let spec: ServiceSpec = grown.spec().unwrap();
        assert_eq!(spec.ports.iter().map(|p| p.port).collect::<Vec<_>>(), [80, 81]);
        assert_eq!(grown.metadata.generation, 2);
        let mut users = made;
        users.metadata.annotations.clear();
        assert_eq!(extended(users, &service(&[82])), None, "a user's Service is the user's");
    }
}
