"""Simulated captures with known truth: people, their motion, a studio, scans, a tracker."""
