//! What is done with invitations, for the fuzz targets in `fuzz/`.

use crate::Invitation;
use crate::invitation;

/// An invitation, as an operator pastes it; and one whose envelope is right, whatever is inside.
///
/// # Panics
/// One that was understood does not read as it was written.
pub fn invitations(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for line in [text.into_owned(), invitation::in_envelope(input)] {
        if let Ok(invitation) = line.parse::<Invitation>() {
            let again: Invitation = invitation
                .to_line()
                .parse()
                .expect("an invitation reads as it was written");
            assert_eq!(again.to_line(), invitation.to_line());
        }
    }
}
