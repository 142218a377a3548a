"""Put an integer net onto the cores of a chip: `mapper.map_net` is the way in, docs/mapping.md says how it counts.

`demand` says what boxes of a population need of a core (neurons, synapse memory, axons in and out, thresholds, weight
formats); `split` cuts populations into boxes that each fit a core; `pack` lets small ones share a core; `routes` says
which core talks to which, and `place` puts those near each other, on as many chips as are needed; `rules` lists
everything the net asks that the chip has not. `layout` is what comes out. `layer_cores` is for chips of one core a
layer, of which only limits are known.
"""
