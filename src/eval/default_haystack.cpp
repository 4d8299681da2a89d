// The default haystack: prose written for this project, on matters far from secret numbers.
#include "rillkv/eval/needle.h"

namespace rillkv::eval {

std::string_view default_haystack() {
  return R"(The ferry leaves the old quay twice a day, and the people who take it know one another by their coats. In winter the deck is wet before dawn, and the first mate throws sand from a bucket so that nobody slips. The crossing lasts as long as two cups of tea. On the far side a row of painted sheds holds nets, paddles and a piano that no one has tuned since it came off a steamer.

Bread is patience with flour in it. A baker who hurries the first rise will pay for it with a tight crumb, and one who forgets the second will find a flat loaf with a sour grin across the top. The best ovens in the valley were built of brick and river clay, and they hold their heat so well that the apples laid in at night are soft by morning.

Everybody agrees that the footbridge should be repaired, and everybody disagrees about the paint. The council wanted grey because grey is cheap. The school wanted yellow because children wrote the letter. In the end the carpenters used what was left from the boathouse, and the bridge turned a green that looks blue in the rain.

A good map leaves things out. The first surveyors of the marsh drew every ditch, and their sheets were so dark with ink that travellers could not find the road. Their successors drew the road, three landmarks and the places where a horse could stand, and people stopped getting lost. What was dropped from the page stayed in the heads of those who cut the reeds.

The orchard was planted by two sisters who could not agree on pears. One held that a pear must keep until spring, the other that a fruit worth keeping is not worth eating. They divided the slope between them with a line of stones, and to this day the upper trees ripen in August while the lower ones are picked in gloves.

Clocks were rare in the hill villages, so the day was told by sounds. There was the hour of the milk cans, the hour of the saw, and a long soft hour after noon when only the weir could be heard. When the railway came, its whistle was added to the list, and for some years it was the least reliable of all.

To mend a roof of slate one needs a ladder, a ripper and a calm morning. The ripper slides beneath a broken slate and pulls out the two nails that held it. A strip of copper is fixed in the gap, the new slate is pushed up over it, and the end of the strip is bent to keep the slate from sliding. A careful worker replaces forty in a day and whistles for most of it.

The library moved four times in a century. It began in a cupboard at the mill, where the books smelled of oats, went on to the vestry, then to a shop between the chemist and the saddler, and came at last to a hall of its own. At each move some volumes were lost and others appeared that nobody remembered buying. A treatise on bees has no stamp at all, and it is the one most often asked for.

Rain falls differently on the two sides of the ridge. The western fields get it in long grey afternoons, the eastern ones in short loud quarrels that end with sunlight. Farmers who own land on both sides keep two hats by the door. Their sheep, who own nothing, stand in the lee of the same wall whatever the sky is doing.

It takes nine people to play in the band and one to carry the drum uphill. For years that one was a quiet man who repaired bicycles and could not read a note. When he grew too old for the hill, the band found that nobody else knew the pace at which to walk, and the summer march began to arrive before its own tune.

Salt was once carried inland on the backs of ponies, a dozen in a string with bells on the first. The paths they wore are still visible as green hollows that go straight at a slope where a cart would have wound about. Walkers like them for the views. Foxes like them because they lead from one warm hedge to the next.

In the glass house behind the station a retired engineer grows ferns. He began with a single pot given to him in place of a fee, and now there are shelves up to the roof and a pump that he built from the parts of a tractor. Visitors are asked to close the door quickly and to say nothing about the heating. In return he tells them, at length, how a frond unrolls.

The night watch at the lock has little to do but listen. A barge that comes late will knock twice with a pole on the wooden gate, and the keeper answers with a lantern. Between one knock and the next he carves spoons. There must be hundreds of them in the kitchens along the canal, each with a small notch in the handle that shows which winter it comes from.

Nobody planned the market square. Carts stopped where the ground was dry, a well was dug where carts stopped, and houses drew near to the well as cattle do. When an architect from the city measured it, he found no two sides equal and no corner square. He praised the harmony of the design, charged for the drawing and caught the evening train.

Weaving was work for the dark months. The loom stood by the only window, the wool hung from the beams, and a pattern was handed down not on paper but as a rhyme. Children who learned the rhyme could set up a blanket before they could write their names. Some of the rhymes are still sung, though few who sing them know that they are counting threads.

When the harbour froze, which happened once in a lifetime, the whole town walked out to the boats. Someone lit a stove on the deck of the dredger and sold chestnuts. The ice sang at night as it took the weight of the tide, and old people lay awake pleased to hear it, since it proved a story that their grandchildren had politely doubted.
)";
}

}  // namespace rillkv::eval
