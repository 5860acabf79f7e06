//! The view `cloud`: domains as circles that light up when something happens; what a person does in it. Pure.
//!
//! It also says where the circles are, for those keys and for whoever draws them.

use ratatui::layout::Rect;

use super::{
    super::{
        layout,
        state::{
            Name,
            cloud::{Bubble, Child},
        },
    },
    App, Effect, View,
    keys::Action,
};

/// Where the person is in it.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct CloudView {
    /// The domain that is chosen; the first one without.
    chosen: Option<Name>,
    /// The one that is looked into.
    open: Option<Open>,
    /// All the light of the frame that was drawn last.
    light: u64,
}

/// A domain that is looked into.
#[derive(Debug)]
struct Open {
    domain: Name,
    /// The type that is chosen; the first one without.
    child: Option<Name>,
}

/// How many circles there is room for. It grows by steps, so that a new domain mostly leaves the others where they are.
const PLACES: [usize; 12] = [4, 6, 8, 12, 15, 20, 24, 32, 40, 48, 56, 64];

/// The smallest circle that looks like one, and the largest that looks good, in Braille dots.
const CIRCLES: std::ops::RangeInclusive<u16> = 12..=80;

/// Columns for a domain with a circle, at least.
const NARROWEST: u16 = 12;

/// Columns for a domain or a type on a line of its own.
const LINE: u16 = 28;

/// Where the domains stand: in rows, each as wide as the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) struct Grid {
    pub(in crate::cmd::dash) columns: usize,
    /// What one of them has.
    pub(in crate::cmd::dash) width: u16,
    pub(in crate::cmd::dash) height: u16,
    /// The diameter of the largest circle in Braille dots; without there is no room for circles, only for lines.
    pub(in crate::cmd::dash) circle: Option<u16>,
}

impl Grid {
    /// For so many domains in this area.
    pub(in crate::cmd::dash) fn of(domains: usize, area: Rect) -> Self {
        let places = PLACES.into_iter().find(|places| *places >= domains).unwrap_or(domains);
        let grids = (1..=places).filter_map(|columns| {
            let width = area.width / u16::try_from(columns).unwrap_or(u16::MAX);
            let height = area.height / u16::try_from(places.div_ceil(columns)).unwrap_or(u16::MAX);
            let dots = height.saturating_sub(Self::words(width)) * 4;
            let circle = (width.saturating_sub(2) * 2).min(dots).min(*CIRCLES.end());
            let fits = width >= NARROWEST && CIRCLES.contains(&circle);
            fits.then_some(Self { columns, width, height, circle: Some(circle) })
        });
        // Of those with the same circles the one with fewer rows: the screen is wide.
        grids.max_by_key(|grid| (grid.circle, grid.columns)).unwrap_or_else(|| Self::lines(area))
    }

    /// A line for each.
    pub(in crate::cmd::dash) fn lines(area: Rect) -> Self {
        let columns = (area.width / LINE).max(1);
        Self { columns: columns.into(), width: area.width / columns, height: 1, circle: None }
    }

    /// Lines under a circle for the name and the number.
    pub(in crate::cmd::dash) const fn words(width: u16) -> u16 {
        if width < 24 { 2 } else { 1 }
    }

    /// Lines that the largest circle takes.
    pub(in crate::cmd::dash) fn high(self) -> u16 {
        self.circle.unwrap_or(0).div_ceil(4)
    }

    /// The lines of a place that are used: a circle and its words, in the middle.
    pub(in crate::cmd::dash) fn used(self, place: Rect) -> Rect {
        let height = (self.high() + Self::words(place.width)).min(place.height);
        Rect { y: place.y + (place.height - height) / 2, height, ..place }
    }

    /// The first row that is shown so that a place is among them.
    pub(in crate::cmd::dash) fn top(self, index: usize, area: Rect) -> usize {
        let rows = usize::from(area.height / self.height.max(1)).max(1);
        (index / self.columns + 1).saturating_sub(rows)
    }

    /// A place on the screen, if it is there.
    pub(in crate::cmd::dash) fn place(self, index: usize, top: usize, area: Rect) -> Option<Rect> {
        let row = u16::try_from((index / self.columns).checked_sub(top)?).ok()?;
        let column = u16::try_from(index % self.columns).ok()?;
        let place = Rect {
            x: area.x + column * self.width,
            y: area.y.checked_add(row.checked_mul(self.height)?)?,
            width: self.width,
            height: self.height,
        };
        (place.bottom() <= area.bottom()).then_some(place)
    }
}

/// How the types of a domain stand around it: half of them on each side, one on a line, so that no words meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) struct Ring {
    /// Places on each side.
    pub(in crate::cmd::dash) side: usize,
}

/// Columns without which a ring's words say nothing.
const RING: u16 = 56;

impl Ring {
    /// For so many types in this area; `None` where there is no room, so that there are lines instead.
    pub(in crate::cmd::dash) fn of(types: usize, area: Rect) -> Option<Self> {
        let places = PLACES.into_iter().find(|places| *places >= types)?;
        let height = usize::from(area.height);
        // An even distance looks better; where there is none, one line each will do.
        let side = places.div_ceil(2);
        let side = if side <= height { side } else { types.div_ceil(2) };
        (area.width >= RING && side <= height).then_some(Self { side })
    }
}

impl App {
    /// Inside of the view's frame, without the line about the domains that are quiet.
    pub(in crate::cmd::dash) fn cloud_area(&self) -> Rect {
        let inside = layout::parts(self).main.map(layout::inside).unwrap_or_default();
        Rect { height: inside.height.saturating_sub(1), ..inside }
    }

    /// The domain that is chosen: its place, and what it is.
    pub(in crate::cmd::dash) fn bubble(&self) -> Option<(usize, &Bubble)> {
        let domains = &self.tallies.cloud.domains;
        let is_it = |bubble: &Bubble| self.cloud.chosen.as_ref().is_some_and(|key| *key == bubble.key);
        let index = domains.iter().position(is_it).unwrap_or(0);
        domains.get(index).map(|bubble| (index, bubble))
    }

    /// The domain that is looked into.
    pub(in crate::cmd::dash) fn opened(&self) -> Option<&Bubble> {
        self.tallies.cloud.find(&self.cloud.open.as_ref()?.domain)
    }

    /// The type in it that is chosen.
    pub(in crate::cmd::dash) fn child(&self) -> Option<(usize, &Child)> {
        let chosen = self.cloud.open.as_ref()?.child.as_ref();
        let children = &self.opened()?.children;
        let is_it = |child: &Child| chosen.is_some_and(|event_type| *event_type == child.event_type);
        let index = children.iter().position(is_it).unwrap_or(0);
        children.get(index).map(|child| (index, child))
    }

    /// Whether something on the screen moves although nothing comes: ten frames a second are enough for it.
    pub(in crate::cmd::dash) fn is_animating(&self) -> bool {
        self.view == View::Cloud && self.tallies.cloud.light(self.now) > 0
    }

    /// True if something that is shown has become darker.
    pub(super) fn fade(&mut self) -> bool {
        let light = self.tallies.cloud.light(self.now);
        let has_changed = std::mem::replace(&mut self.cloud.light, light) != light;
        has_changed && self.view == View::Cloud
    }

    /// Takes a key; `None` where it means nothing here.
    pub(super) fn act_on_cloud(&mut self, action: Action) -> Option<Vec<Effect>> {
        if let Some(bubble) = self.opened() {
            let children = bubble.children.len();
            let index = self.child().map_or(0, |(index, _)| index);
            let area = self.cloud_area();
            let columns = Ring::of(children, area).map_or_else(|| Grid::lines(area).columns, |_| 2);
            match action {
                Action::Back => self.cloud.open = None,
                Action::Open => self.list_child(),
                action => self.choose_child(step(action, index, columns, children)?),
            }
            return Some(Vec::new());
        }
        let domains = self.tallies.cloud.domains.len();
        let (index, bubble) = self.bubble()?;
        match action {
            Action::Open => self.cloud.open = Some(Open { domain: bubble.key.clone(), child: None }),
            action => {
                let columns = Grid::of(domains, self.cloud_area()).columns;
                self.choose_bubble(step(action, index, columns, domains)?);
            }
        }
        Some(Vec::new())
    }

    fn choose_bubble(&mut self, index: usize) {
        self.cloud.chosen = self.tallies.cloud.domains.get(index).map(|bubble| bubble.key.clone());
    }

    fn choose_child(&mut self, index: usize) {
        let chosen = self.opened().and_then(|bubble| bubble.children.get(index));
        let chosen = chosen.map(|child| child.event_type.clone());
        if let Some(open) = &mut self.cloud.open {
            open.child = chosen;
        }
    }

    /// Chooses what was clicked at; a second click goes into it.
    pub(super) fn click_cloud(&mut self, index: usize) {
        let is_open = self.cloud.open.is_some();
        let chosen = if is_open {
            self.child().map(|(index, _)| index)
        } else {
            self.bubble().map(|(index, _)| index)
        };
        if chosen == Some(index) {
            drop(self.act_on_cloud(Action::Open));
        } else if is_open {
            self.choose_child(index);
        } else {
            self.choose_bubble(index);
        }
    }

    /// Lists the events of the type that is chosen.
    fn list_child(&mut self) {
        if let Some((_, child)) = self.child() {
            let event_type = child.event_type.clone();
            self.list_only(None, Some(&event_type));
        }
    }
}

/// Where a key leads from a place among so many; `None` where the key doesn't move.
fn step(action: Action, index: usize, columns: usize, places: usize) -> Option<usize> {
    let last = places.saturating_sub(1);
    let to = match action {
        Action::Left => index.saturating_sub(1),
        Action::Right => index + 1,
        Action::Up => index.checked_sub(columns).unwrap_or(index),
        Action::Down if index + columns <= last => index + columns,
        // From the row before the last one, which may be shorter.
        Action::Down if index / columns < last / columns => last,
        Action::Down => index,
        Action::Newest => 0,
        Action::Oldest => last,
        _ => return None,
    };
    Some(to.min(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_keep_their_places_until_there_is_no_room_for_one_more() {
        let area = Rect::new(1, 3, 98, 24);
        let four = Grid::of(1, area);
        assert!((2..=4).all(|domains| Grid::of(domains, area) == four));
        for (width, height) in [(58, 11), (98, 24), (198, 54), (10, 3), (0, 0)] {
            let area = Rect::new(1, 3, width, height);
            for domains in 0..70 {
                let grid = Grid::of(domains, area);
                let places: Vec<Rect> = (0..domains).filter_map(|index| grid.place(index, 0, area)).collect();
                assert!(places.iter().all(|place| place.intersection(area) == *place), "{width}x{height}");
                if let Some(circle) = grid.circle {
                    assert_eq!(places.len(), domains, "{width}x{height}: {grid:?}");
                    assert!(
                        grid.height * 4 >= circle + 4 * Grid::words(grid.width) && grid.width * 2 >= circle
                    );
                }
            }
        }
        assert_eq!(Grid::of(12, Rect::new(1, 3, 58, 11)).circle, None, "no room");
    }

    #[test]
    fn keys_stay_among_the_places() {
        // 0 1 2
        // 3 4
        for (action, from, to) in [
            (Action::Right, 2, 3),
            (Action::Right, 4, 4),
            (Action::Left, 0, 0),
            (Action::Down, 1, 4),
            (Action::Down, 2, 4),
            (Action::Down, 3, 3),
            (Action::Up, 4, 1),
            (Action::Up, 1, 1),
            (Action::Oldest, 0, 4),
            (Action::Newest, 4, 0),
        ] {
            assert_eq!(step(action, from, 3, 5), Some(to), "{action:?} from {from}");
        }
        assert_eq!(step(Action::Help, 0, 3, 5), None);
    }
}
