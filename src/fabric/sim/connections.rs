//! What each pair of nodes knows of the connection between them.
//!
//! A connection carries requests in order. When one of its messages is lost it is *doomed*: nothing after the lost
//! message gets through. Its poster learns of it a while later, when it *breaks*; the next post connects anew, under
//! the next incarnation, and messages of the one before that are still under way count as lost.

/// One node's connection to another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connection {
    /// How many there have been, this one included.
    pub incarnation: u32,
    /// How often its two ends had booted when it was made: a connection to a former life of a node is none.
    pub boots: [u32; 2],
    /// Requests can be posted on it, as far as the poster knows.
    pub is_up: bool,
    /// A message of it was lost.
    pub is_doomed: bool,
    /// When the poster gets to know.
    pub breaks_at: u64,
    /// When the last request, and the last reply, arrive: the next ones do not come earlier.
    pub last_request: u64,
    /// See there.
    pub last_reply: u64,
}

/// All connections that there have been, each with a number by which messages name it.
///
/// Each source has a small table of its targets, with open addressing. One map for all pairs would be met cold by
/// nearly every message of a large world: it took half of the time of a barrier of 65,536 nodes.
#[derive(Debug)]
pub struct Connections {
    connections: Vec<Connection>,
    targets: Vec<Targets>,
}

impl Connections {
    pub fn new(nodes: usize) -> Self {
        Self { connections: Vec::new(), targets: (0..nodes).map(|_| Targets::default()).collect() }
    }

    /// The connection's number, if there is one or ever was.
    pub fn find(&self, source: u32, target: u32) -> Option<u32> {
        self.targets[source as usize].find(target)
    }

    /// The connection's number; it is made, not yet up, if there never was one.
    pub fn between(&mut self, source: u32, target: u32) -> u32 {
        if let Some(found) = self.find(source, target) {
            return found;
        }
        let made = u32::try_from(self.connections.len()).expect("fewer connections than 32 bits can number");
        self.connections.push(Connection::default());
        self.targets[source as usize].insert(target, made);
        made
    }

    pub fn get(&self, connection: u32) -> &Connection {
        &self.connections[connection as usize]
    }

    pub fn get_mut(&mut self, connection: u32) -> &mut Connection {
        &mut self.connections[connection as usize]
    }
}

/// A source's targets and the numbers of its connections to them.
#[derive(Debug, Default)]
struct Targets {
    /// A power of two of them, or none. At least a quarter is free.
    places: Box<[Place]>,
    used: usize,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    target: u32,
    connection: u32,
}

const FREE: Place = Place { target: u32::MAX, connection: u32::MAX };

impl Targets {
    fn find(&self, target: u32) -> Option<u32> {
        let place = self.places.get(self.place_of(target)?)?;
        (place.connection != FREE.connection).then_some(place.connection)
    }

    /// Where the target stands, or would stand.
    fn place_of(&self, target: u32) -> Option<usize> {
        let mask = self.places.len().checked_sub(1)?;
        let mut at = (target.wrapping_mul(0x9e37_79b1) >> 8) as usize & mask;
        while self.places[at].connection != FREE.connection && self.places[at].target != target {
            at = (at + 1) & mask;
        }
        Some(at)
    }

    fn insert(&mut self, target: u32, connection: u32) {
        if (self.used + 1) * 4 > self.places.len() * 3 {
            let larger = vec![FREE; (self.places.len() * 2).max(4)].into_boxed_slice();
            let old = std::mem::replace(&mut self.places, larger);
            old.into_iter().filter(|place| place.connection != FREE.connection).for_each(|place| self.set(place));
        }
        self.used += 1;
        self.set(Place { target, connection });
    }

    fn set(&mut self, place: Place) {
        let at = self.place_of(place.target).expect("there are places");
        self.places[at] = place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_has_its_connection() {
        let mut connections = Connections::new(3);
        let targets: Vec<u32> = (0..500).map(|number| number * 256).collect();
        for source in 0..2 {
            for (place, target) in targets.iter().enumerate() {
                assert_eq!(connections.find(source, *target), None);
                let expected = source as usize * targets.len() + place;
                assert_eq!(connections.between(source, *target) as usize, expected);
            }
        }
        for source in 0..2 {
            for (place, target) in targets.iter().enumerate() {
                let found = connections.find(source, *target).expect("it was made");
                assert_eq!(found as usize, source as usize * targets.len() + place);
            }
        }
        assert_eq!((connections.find(2, 0), connections.find(0, 7)), (None, None));
    }
}
