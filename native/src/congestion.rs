//! Cubic, with two rules of ours.
//!
//! So much may be on the way to a peer at most: more, and it takes us for its memory. And a close
//! goes out whatever is on the way: quinn-proto holds it back behind data that will never be sent,
//! and the peer would hear of the end by its silence.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, CubicConfig};

pub struct Rules {
    pub flight_max: u64,
    /// Set while a close is built.
    pub lifted: AtomicBool,
}

impl Rules {
    pub fn new(flight_max: u64) -> Arc<Self> {
        Arc::new(Self { flight_max, lifted: AtomicBool::new(false) })
    }
}

pub struct Factory(pub Arc<Rules>);

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::new(CubicConfig::default()).build(now, mtu);
        Box::new(Ruled { inner, rules: self.0.clone() })
    }
}

struct Ruled {
    inner: Box<dyn Controller>,
    rules: Arc<Rules>,
}

#[rustfmt::skip] // what is only passed on
impl Controller for Ruled {
    fn window(&self) -> u64 {
        if self.rules.lifted.load(Ordering::Relaxed) {
            return u64::MAX / 2;
        }
        self.inner.window().min(self.rules.flight_max)
    }

    fn on_sent(&mut self, now: Instant, bytes: u64, last: u64) {
        self.inner.on_sent(now, bytes, last);
    }
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, idle: bool, rtt: &RttEstimator) {
        self.inner.on_ack(now, sent, bytes, idle, rtt);
    }
    fn on_end_acks(&mut self, now: Instant, in_flight: u64, idle: bool, largest: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, idle, largest);
    }
    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.inner.on_congestion_event(now, sent, persistent, lost);
    }
    fn on_mtu_update(&mut self, mtu: u16) {
        self.inner.on_mtu_update(mtu);
    }
    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box(), rules: self.rules.clone() })
    }
    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
