//! Which deliveries a broker that kept the session sends again, and which of those we know. Pure.
//!
//! What it has no acknowledgement for comes again on the next connection: the same packet ids, in
//! the order of old, before anything new. What we had not acknowledged is certain to, and must not
//! be taken for a new message. Of what we had acknowledged only the last may, if those
//! acknowledgements were lost; and what comes after all that is certain may be a new message under an
//! id that became free. So what was acknowledged is known again only as long as something that is
//! certain is still to come: a message stored twice is better than one lost.

use std::collections::HashMap;

/// By what a delivery is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The packet id, which names it within the session until it is acknowledged.
    pub(crate) packet_id: u16,
    /// A hash of topic and payload, as the broker may give the id to another message.
    pub(crate) fingerprint: u64,
}

/// What the broker may send again: of each packet id, the last delivery.
#[derive(Debug, Default)]
pub(super) struct Redelivery {
    /// What came on this connection.
    here: HashMap<u16, Here>,
    /// What came on earlier ones, by fingerprint: first what was not acknowledged.
    certain: HashMap<u16, u64>,
    possible: HashMap<u16, u64>,
}

#[derive(Debug)]
struct Here {
    fingerprint: u64,
    is_acknowledged: bool,
}

impl Redelivery {
    /// True if what comes is a delivery that we know. If not, it is new, whatever had its id.
    pub(super) fn knows(&mut self, identity: Identity, is_marked: bool) -> bool {
        let Identity { packet_id, fingerprint } = identity;
        if !is_marked {
            // What is new comes after all that comes again.
            self.forget();
            return false;
        }
        let is = |known: &HashMap<u16, u64>| known.get(&packet_id) == Some(&fingerprint);
        if is(&self.certain) {
            self.possible.clear();
            return true;
        }
        let is_known = !self.certain.is_empty() && is(&self.possible);
        if !is_known {
            self.certain.remove(&packet_id);
            self.possible.remove(&packet_id);
        }
        is_known
    }

    /// A delivery is taken, new or not.
    pub(super) fn taken(&mut self, identity: Identity) {
        let Identity { packet_id, fingerprint } = identity;
        self.certain.remove(&packet_id);
        self.possible.remove(&packet_id);
        self.here.insert(packet_id, Here { fingerprint, is_acknowledged: false });
    }

    /// A delivery of this connection is acknowledged.
    pub(super) fn acknowledged(&mut self, packet_id: u16) {
        if let Some(here) = self.here.get_mut(&packet_id) {
            here.is_acknowledged = true;
        }
    }

    /// The connection is lost. Acknowledgements may be, with it.
    pub(super) fn connection_lost(&mut self) {
        for (packet_id, Here { fingerprint, is_acknowledged }) in self.here.drain() {
            let known = if is_acknowledged { &mut self.possible } else { &mut self.certain };
            known.insert(packet_id, fingerprint);
        }
    }

    /// The broker sends none of it again: it has lost the session, or is through with it.
    pub(super) fn forget(&mut self) {
        self.certain.clear();
        self.possible.clear();
    }
}
