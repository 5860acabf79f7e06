//! The view `services`: the services of a registry, lit when they get something; what a person does in it. Pure.

use super::{App, Effect, filters::Field, keys::Action};

/// Where the person is in it.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct ServicesView {
    /// The name of the chosen service or program; the first one without.
    chosen: Option<String>,
}

impl App {
    /// The names that are listed: services where there is a registry, else programs.
    fn service_names(&self) -> Vec<&str> {
        let services = self.tallies.services.services();
        if services.is_empty() {
            return self.tallies.services.sources().keys().map(AsRef::as_ref).collect();
        }
        services.iter().map(|(service, _)| service.name.as_str()).collect()
    }

    /// The place of the chosen one in the list.
    pub(in crate::cmd::dash) fn chosen_service(&self) -> usize {
        let chosen = self.services.chosen.as_deref();
        self.service_names().iter().position(|name| Some(*name) == chosen).unwrap_or(0)
    }

    /// Takes a key; `None` where it means nothing here.
    pub(super) fn act_on_services(&mut self, action: Action) -> Option<Vec<Effect>> {
        let place = self.chosen_service();
        let page = super::super::layout::page(self);
        let place = match action {
            Action::Up => place.saturating_sub(1),
            Action::Down => place + 1,
            Action::PageUp => place.saturating_sub(page),
            Action::PageDown => place + page,
            Action::Newest => 0,
            Action::Oldest => usize::MAX,
            Action::Open => {
                self.show_service(place);
                return Some(Vec::new());
            }
            _ => return None,
        };
        self.choose_service(place);
        Some(Vec::new())
    }

    fn choose_service(&mut self, place: usize) {
        let names = self.service_names();
        let chosen = names.get(place.min(names.len().saturating_sub(1))).map(|name| (*name).to_owned());
        self.services.chosen = chosen;
    }

    /// The first click chooses, the second one opens.
    pub(super) fn click_service(&mut self, place: usize) {
        if self.services.chosen.is_some() && self.chosen_service() == place {
            self.show_service(place);
        } else {
            self.choose_service(place);
        }
    }

    /// Shows the events that a service gets, or that a program sends.
    fn show_service(&mut self, place: usize) {
        let services = self.tallies.services.services();
        let (field, value) = match services.get(place) {
            Some((service, _)) => {
                let Some(first) = service.keys.first().map(ToString::to_string) else {
                    return self.tell("this service listens to nothing".to_owned());
                };
                if service.keys.len() > 1 {
                    let text = format!(
                        "these are the events of {first}, the first of {} patterns",
                        service.keys.len()
                    );
                    self.tell(text);
                }
                (Field::Type, first)
            }
            None => {
                let Some(name) = self.service_names().get(place).map(|name| (*name).to_owned()) else {
                    return;
                };
                (Field::Source, name)
            }
        };
        if let Err(error) = self.set(field, Some(value)) {
            self.tell(error);
        }
        self.show_list();
    }
}
