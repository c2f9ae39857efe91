//! The bare relay as a pair: plaintext, no HTTP; see `bin/relay.rs`.

use super::{Site, Speech, own};

/// The far relay's command, then the near one's.
pub fn commands(site: &Site<'_>) -> anyhow::Result<[Vec<String>; 2]> {
    let (mut far, mut near) = (vec![own("relay")?.display().to_string()], vec![own("relay")?.display().to_string()]);
    for speech in Speech::ALL {
        far.extend([site.far(speech), format!("127.0.0.1:{}", speech.app())]);
        near.extend([format!("127.0.0.1:{}", speech.near()), site.far(speech)]);
    }
    Ok([far, near])
}
