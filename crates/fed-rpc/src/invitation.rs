//! The one line with which a site lets an operator in.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::Message as _;
use ring::digest::{SHA256, digest};
use thiserror::Error;

use crate::identity::{Fingerprint, Identity, IdentityError};
use crate::outgoing::is_address;

const PREFIX: &str = "fed-invitation:";
/// Of the layout below. Another layout gets another number.
const VERSION: u8 = 1;
const CHECKSUM_LEN: usize = 4;
/// Longest text that is looked at, in bytes; a real one has about 400.
const MAX_LEN: usize = 8192;
/// Most addresses that an agent dials.
pub const MAX_DIALS: usize = 8;
/// What the certificate of the one-time key calls its holder.
const HOLDER: &str = "fed invitation";

/// Lenient at the end of the text, so that a line cut anywhere is recognised as cut.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Why a text is not an invitation.
#[derive(Debug, Error)]
pub enum InvitationError {
    /// It does not begin as one.
    #[error(
        "this is not an invitation; paste the whole line that `fed agent invite` printed, which begins with fed-invitation:"
    )]
    NotOne,
    /// Its end is missing.
    #[error("the invitation is cut off; paste the whole line that `fed agent invite` printed")]
    Truncated,
    /// It was changed on the way.
    #[error(
        "the invitation was changed on the way; copy the line that `fed agent invite` printed once more"
    )]
    Damaged,
    /// It was made by another version of fed.
    #[error(
        "the invitation has format {version}, and this fed knows format {VERSION}; use the version of fed that the site has"
    )]
    Version {
        /// The number in the invitation.
        version: u8,
    },
    /// A field makes no sense, though nothing was lost on the way.
    #[error(
        "the invitation's {field} cannot be used; ask the site for a new one (`fed agent invite`)"
    )]
    Field {
        /// Which one.
        field: &'static str,
    },
    /// The one-time key cannot be used or made.
    #[error("the invitation's key cannot be used; ask the site for a new one (`fed agent invite`)")]
    Key(#[source] IdentityError),
}

/// What an operator needs to reach an agent for the first time, written as one line of text.
///
/// The text is a secret until it is redeemed or expires: it holds a private key, which may call
/// `Enrol` and nothing else.
#[derive(Clone)]
pub struct Invitation {
    site: String,
    /// Empty if the agent is not to be called there.
    address: String,
    dials: Vec<String>,
    agent: Fingerprint,
    key: Identity,
    expires: u64,
}

/// The layout within the text.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
struct Payload {
    #[prost(string, tag = "1")]
    site: String,
    #[prost(string, tag = "2")]
    address: String,
    #[prost(bytes = "vec", tag = "3")]
    agent: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    key: Vec<u8>,
    #[prost(uint64, tag = "5")]
    expires: u64,
    #[prost(string, repeated, tag = "6")]
    dials: Vec<String>,
}

impl Invitation {
    /// Makes an invitation with a new one-time key.
    ///
    /// `address` is the agent's as the operator reaches it, `host:port`, and `dials` are those of
    /// operators that the agent dials: one of the two at least. `agent` is the agent's key;
    /// `expires` is in whole seconds since 1970. The agent keeps [`Invitation::holder`] to recognise
    /// whoever redeems it.
    ///
    /// # Errors
    /// When a field could not be read back, or no key can be made.
    pub fn generate(
        site: &str,
        address: Option<&str>,
        dials: &[String],
        agent: Fingerprint,
        expires: u64,
    ) -> Result<Self, InvitationError> {
        let invitation = Self {
            site: site.to_owned(),
            address: address.unwrap_or_default().to_owned(),
            dials: dials.to_vec(),
            agent,
            key: Identity::generate(HOLDER).map_err(InvitationError::Key)?,
            expires,
        };
        invitation.check()?;
        Ok(invitation)
    }

    /// Returns the name that the site gives itself.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// Returns the agent's address, `host:port`, if it may be called there.
    pub fn address(&self) -> Option<&str> {
        Some(self.address.as_str()).filter(|address| !address.is_empty())
    }

    /// Returns the addresses of operators that the agent dials, `host:port` each, 8 at most.
    pub fn dials(&self) -> &[String] {
        &self.dials
    }

    /// Returns the agent's key, to be pinned.
    pub fn agent(&self) -> Fingerprint {
        self.agent
    }

    /// Returns the one-time key, with which `Enrol` is called.
    pub fn identity(&self) -> &Identity {
        &self.key
    }

    /// Returns the fingerprint of the one-time key.
    pub fn holder(&self) -> Fingerprint {
        self.key.fingerprint()
    }

    /// Returns when it ends, in whole seconds since 1970.
    pub fn expires(&self) -> u64 {
        self.expires
    }

    /// Tells whether it has ended at `now`.
    pub fn has_expired(&self, now: SystemTime) -> bool {
        match SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.expires)) {
            Some(end) => now >= end,
            None => false,
        }
    }

    /// Returns the line of text. Secret.
    pub fn to_line(&self) -> String {
        let payload = Payload {
            site: self.site.clone(),
            address: self.address.clone(),
            dials: self.dials.clone(),
            agent: self.agent.as_bytes().to_vec(),
            key: self.key.private_key().secret_pkcs8_der().to_vec(),
            expires: self.expires,
        };
        enveloped(&payload.encode_length_delimited_to_vec())
    }

    fn check(&self) -> Result<(), InvitationError> {
        let usable = |address: &str| address.len() <= 1024 && is_address(address);
        let field = if self.site.is_empty() || self.site.len() > 255 {
            "site"
        } else if !self.address().map_or(!self.dials.is_empty(), usable) {
            "address"
        } else if self.dials.len() > MAX_DIALS
            || !self.dials.iter().all(|to| to.len() < 300 && usable(to))
        {
            "dial"
        } else {
            return Ok(());
        };
        Err(InvitationError::Field { field })
    }
}

impl FromStr for Invitation {
    type Err = InvitationError;

    /// Reads the line of text; blanks and line breaks that a terminal or a mail put into it do
    /// not matter.
    fn from_str(text: &str) -> Result<Self, InvitationError> {
        let payload = payload(text)?;
        let agent = <[u8; 32]>::try_from(payload.agent.as_slice())
            .map_err(|_| InvitationError::Field { field: "agent" })?;
        let invitation = Self {
            site: payload.site,
            address: payload.address,
            dials: payload.dials,
            agent: Fingerprint::from_bytes(agent),
            key: Identity::from_private_key(&payload.key, HOLDER).map_err(InvitationError::Key)?,
            expires: payload.expires,
        };
        invitation.check()?;
        Ok(invitation)
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Invitation")
            .field("site", &self.site)
            .field("address", &self.address)
            .field("dials", &self.dials)
            .field("agent", &self.agent)
            .field("holder", &self.holder())
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// The text around a payload.
fn enveloped(body: &[u8]) -> String {
    let bytes = [&[VERSION][..], &checksum(body), body].concat();
    format!("{PREFIX}{}", BASE64.encode(bytes))
}

/// A text whose envelope is right, around any bytes.
#[cfg(feature = "fuzzing")]
pub(crate) fn in_envelope(payload: &[u8]) -> String {
    let mut body = Vec::new();
    prost::encode_length_delimiter(payload.len(), &mut body).expect("a vector takes all");
    body.extend(payload);
    enveloped(&body)
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_LEN] {
    *digest(&SHA256, body)
        .as_ref()
        .first_chunk()
        .expect("SHA-256 has more bytes")
}

/// Undoes the text's envelope.
fn payload(text: &str) -> Result<Payload, InvitationError> {
    if text.len() > MAX_LEN {
        return Err(InvitationError::NotOne);
    }
    let text: String = text.split_ascii_whitespace().collect();
    let encoded = text.strip_prefix(PREFIX).ok_or(InvitationError::NotOne)?;
    let (version, rest) = decode(encoded)?;
    if version != VERSION {
        return Err(InvitationError::Version { version });
    }
    let (sum, body) = rest.split_first_chunk().ok_or(InvitationError::Truncated)?;
    let mut message = body;
    let length = prost::decode_length_delimiter(&mut message).map_err(|_| {
        // A number cut in its middle cannot be told from a damaged one but by its length.
        if body.len() < 3 {
            InvitationError::Truncated
        } else {
            InvitationError::Damaged
        }
    })?;
    if message.len() < length {
        return Err(InvitationError::Truncated);
    }
    if message.len() > length || checksum(body) != *sum {
        return Err(InvitationError::Damaged);
    }
    Payload::decode(message).map_err(|_| InvitationError::Damaged)
}

/// Decodes base64 into the version and the rest.
fn decode(encoded: &str) -> Result<(u8, Vec<u8>), InvitationError> {
    // One character beyond a group of four carries no whole byte: the text was cut there.
    let whole = match encoded.len() % 4 {
        1 => encoded
            .get(..encoded.len() - 1)
            .ok_or(InvitationError::Damaged)?,
        _ => encoded,
    };
    let bytes = BASE64.decode(whole).map_err(|_| InvitationError::Damaged)?;
    match bytes.split_first() {
        Some((version, rest)) => Ok((*version, rest.to_vec())),
        None => Err(InvitationError::Truncated),
    }
}

#[cfg(test)]
mod tests;
