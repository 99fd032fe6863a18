//! The faults that the caller switches on.

/// The server cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// It is down: connections end, new ones are refused. What was committed is kept.
    Refusing,
    /// The network delivers nothing, in neither direction, and reports no error. The server works on what it has got.
    Hanging,
}

/// What becomes of one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// It is the victim of a deadlock (1213): its transaction is rolled back.
    Deadlock,
    /// The connection ends before it is carried out. A transaction is rolled back.
    CutBefore,
    /// It is carried out, and the connection ends before its answer. A commit has happened, an open transaction is
    /// rolled back.
    CutAfter,
}

impl Strike {
    pub(super) fn kind(self, place: &Place) -> &'static str {
        match self {
            Self::Deadlock => "injected_deadlock",
            Self::CutBefore if place.commits => "commit_lost",
            Self::CutBefore => "cut_before",
            Self::CutAfter if place.commits => "commit_answer_lost",
            Self::CutAfter => "cut_after",
        }
    }
}

/// A statement that is about to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The name of the session's method.
    pub statement: &'static str,
    /// It writes or locks rows.
    pub locks: bool,
    /// It commits: an explicit commit, or a writing statement outside a transaction.
    pub commits: bool,
}

/// Which statements a planned strike meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Any,
    /// Those that write or lock rows, and commits.
    Writes,
    Commits,
}

impl At {
    fn matches(self, place: &Place) -> bool {
        match self {
            Self::Any => true,
            Self::Writes => place.locks || place.commits,
            Self::Commits => place.commits,
        }
    }
}

/// Decides for each statement whether a fault strikes it. It must not call the server.
pub type Dice = Box<dyn FnMut(&Place) -> Option<Strike>>;

/// Gets every fault that strikes: its kind and the statement.
pub type Sink = Box<dyn Fn(&'static str, &'static str)>;

/// What is switched on.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) away: Option<Away>,
    pub(super) is_read_only: bool,
    pub(super) slow_ms: u64,
    planned: Vec<(Strike, At, usize)>,
    pub(super) dice: Option<Dice>,
}

impl Faults {
    pub(super) fn plan(&mut self, strike: Strike, at: At, count: usize) {
        self.planned.push((strike, at, count));
    }

    pub(super) fn clear(&mut self) {
        self.planned.clear();
        self.dice = None;
    }

    /// What strikes this statement: the first plan that fits, otherwise the dice.
    pub(super) fn strike(&mut self, place: &Place) -> Option<Strike> {
        let fits = |(_, at, count): &(Strike, At, usize)| *count > 0 && at.matches(place);
        let strike = match self.planned.iter_mut().find(|plan| fits(plan)) {
            Some((strike, _, count)) => {
                *count -= 1;
                Some(*strike)
            }
            None => self.dice.as_mut().and_then(|dice| dice(place)),
        };
        // Nothing else can be the victim of a deadlock.
        strike.filter(|strike| *strike != Strike::Deadlock || At::Writes.matches(place))
    }
}
