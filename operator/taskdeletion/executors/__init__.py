"""Where a step runs: here, in threads beside the control loop. Knows backends; decides nothing about requests."""
